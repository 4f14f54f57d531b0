// Browsers allow no web workers to pages from disk. There, a hidden frame does the work of the worker that searches. The
// theme takes a shim from a server on the network; this one has its interface.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.body.appendChild(document.createElement("iframe"))
      this.frame.hidden = true
      const inside = this.frame.contentWindow
      inside.document.write("<!doctype html><body></body>")
      inside.document.close()
      const load = (src) =>
        new Promise((onload, onerror) => {
          inside.document.body.append(Object.assign(inside.document.createElement("script"), { src, onload, onerror }))
        })
      inside.importScripts = (...urls) => urls.reduce((before, next) => before.then(() => load(next)), Promise.resolve())
      inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        if (this.onmessage) this.onmessage(event)
      }
      this.ready = load(url)
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
