"""A hub of models on loopback: what `huggingface_hub` asks of the real one, over HTTP, with files in memory."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

OWNER_TOKEN, READER_TOKEN = "hf_ownerownerowner", "hf_readerreaderreader"


class Hub:
    """The repositories `{id: {"private", "gated", "branches": {name: commit}, "commits": {commit: {file: bytes}}}}`."""

    def __init__(self):
        self.repositories, self.objects, self.requests, self.cut = {}, {}, [], []
        self.moves = {}  # {file: (id, branch, files)}: what is committed once that file was read
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def create(self, id, private=False, gated=False):
        start = hashlib.sha1(id.encode()).hexdigest()
        self.repositories[id] = dict(private=private, gated=gated, branches={"main": start}, commits={start: {}})

    def commit(self, id, branch, files, deleted=()):
        repository = self.repositories[id]
        contents = {**repository["commits"][repository["branches"][branch]], **files}
        contents = {name: data for name, data in contents.items() if name not in deleted}
        commit = hashlib.sha1(repr(sorted(contents.items())).encode()).hexdigest()
        repository["commits"][commit], repository["branches"][branch] = contents, commit
        return commit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, value=None, headers=None, body=None):
        body = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        for name, text in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message):
        self.answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.handle_path()

    do_PUT = do_POST  # noqa: N815
    do_GET = do_HEAD = lambda self: self.handle_path()  # noqa: N815

    def handle_path(self):
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/refuse/(\d+)/(.*)", path):
            return self.refuse(int(match[1]), "", match[2])
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if token not in ("", OWNER_TOKEN, READER_TOKEN) and not path.startswith("/objects/"):
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if path == "/api/repos/create":
            return self.create(token)
        if path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
            return None
        if path.startswith("/objects/"):
            self.hub.objects[path.removeprefix("/objects/")] = self.body
            return self.answer(200, {})
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self.batch()
        match = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree|preupload|commit|branch)/(.+))?", path)
        file = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
        id = (match or file)[1] if match or file else ""
        repository = self.hub.repositories.get(id)
        if repository is None or (repository["private"] and not token):
            return self.refuse(401 if not token else 404, "RepoNotFound", "Repository not found")
        if repository["gated"] and token != OWNER_TOKEN and (file or match[2] == "tree"):
            return self.refuse(401 if not token else 403, "GatedRepo", f"Access to {id} is restricted")
        if match and match[2] in ("preupload", "commit", "branch") and token != OWNER_TOKEN:
            return self.refuse(403, "", "You have no write access")
        revision = (file[2] if file else match[3]) or "main"
        if match and match[2] == "branch":
            if revision in repository["branches"]:
                return self.refuse(409, "", "Reference already exists")
            repository["branches"][revision] = repository["branches"]["main"]
            return self.answer(200, {})
        commit = repository["branches"].get(revision, revision)
        if commit not in repository["commits"]:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository["commits"][commit]
        if file:
            return self.send_file(file[3], files, commit)
        getattr(self, f"do_{match[2] or 'revision'}")(id, revision, commit, files)

    def create(self, token):
        asked = json.loads(self.body)
        id = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if token != OWNER_TOKEN:
            return self.refuse(403, "", "You have no right to create it")
        if id in self.hub.repositories:
            return self.answer(409, {"error": "You already created it", "url": f"{self.hub.url}/{id}"})
        self.hub.create(id, private=asked.get("private") or asked.get("visibility") == "private")
        return self.answer(200, {"url": f"{self.hub.url}/{id}"})

    def do_revision(self, id, revision, commit, files):
        siblings = [{"rfilename": name} for name in files]
        private = bool(self.hub.repositories[id]["private"])
        self.answer(200, {"id": id, "sha": commit, "private": private, "siblings": siblings, "tags": []})

    def do_tree(self, id, revision, commit, files):
        self.answer(200, [dict(type="file", path=name, size=len(data), oid=oid(data)) for name, data in files.items()])

    def do_preupload(self, id, revision, commit, files):
        asked = json.loads(self.body)["files"]
        modes = [
            dict(path=file["path"], uploadMode="lfs" if file["path"].endswith(".safetensors") else "regular")
            | dict(shouldIgnore=False)
            for file in asked
        ]
        self.answer(200, {"files": modes})

    def batch(self):
        objects = json.loads(self.body)["objects"]
        for item in objects:
            item["actions"] = {"upload": {"href": f"{self.hub.url}/objects/{item['oid']}"}}
        self.answer(200, {"transfer": "basic", "objects": objects})

    def do_commit(self, id, revision, commit, files):
        added, deleted = {}, []
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                added[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                added[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                deleted.append(value["path"])
        made = self.hub.commit(id, revision, added, deleted)
        self.answer(200, dict(commitUrl=f"{self.hub.url}/{id}/commit/{made}", commitOid=made))

    def send_file(self, name, files, commit):
        if name not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        data, headers = files[name], {"X-Repo-Commit": commit, "ETag": f'"{oid(files[name])}"'}
        first = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        if self.command == "GET" and name in self.hub.cut:
            self.hub.cut.remove(name)
            self.send_response(200)
            for header, text in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(header, text)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return None
        if self.command == "GET" and name in self.hub.moves:
            self.hub.commit(*self.hub.moves.pop(name))
        return self.answer(206 if first else 200, headers=headers | {"Accept-Ranges": "bytes"}, body=data[first:])


def oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
