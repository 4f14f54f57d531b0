"""The pages as mkdocs builds them: whole, without a network, with search that works served and from disk."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import unquote

import browser
import pytest

ROOT = Path(__file__).resolve().parents[1]
QUIET = {"NO_MKDOCS_2_WARNING": "1"}
FOUND = re.compile(r'<a href="([^"]+)" class="md-search-result__link"')


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | QUIET)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_fetches_nothing(site):
    made = list(site.glob("*.html"))
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= {page.stem for page in made}
    for page in made:
        fetched = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"([^\"]+)\"", page.read_text())
        assert fetched and not [address for address in fetched if re.match(r"https?:|//", address)]


def test_links_lead_somewhere_from_disk(site):
    pages = {page.name: page.read_text() for page in site.glob("*.html") if page.name != "404.html"}
    anchors = {name: set(re.findall(r' id="([^"]+)"', text)) for name, text in pages.items()}
    broken, count = [], 0
    for name, text in pages.items():
        for link in re.findall(r'<a\b[^>]*? href="([^"]+)"', text):
            path, _, anchor = unquote(link).partition("#")
            file = (path.removeprefix("./") or name) if path not in (".", "..") else "index.html"
            there = (site / file).exists() and (
                not anchor or anchor in anchors.get(file, {anchor}) or anchor[:2] == "__"
            )
            count += 1
            broken += [] if re.match("https?:|mailto:", link) or there else [(name, link)]
    assert broken == [] and count > 1000


def test_reference_is_in_the_pages(site):
    api, ops = ((site / f"{name}.html").read_text() for name in ("api", "ops"))
    for anchor in ("beit_jax.from_pretrained", "beit_jax.convert.Pretrained", "beit_jax.tasks.Task.loss"):
        assert f'id="{anchor}"' in api
    assert 'id="beit_jax.data.ops.crop.two_views"' in ops and "<blockquote>" not in api + ops
    assert "<code>optimizer.clip_norm</code>" in (site / "config_keys.html").read_text()


@pytest.mark.parametrize("word", ["from_pretrained", "clip_norm"])
def test_search_from_disk(site, tmp_path, word):
    page = (site / "index.html").resolve().as_uri()
    expected = {"from_pretrained": "api.html", "clip_norm": "config_keys.html"}[word]
    found = FOUND.findall(browser.document(f"{page}?q={word}", tmp_path))
    assert any(expected in link for link in found), found


class SlowPictures(http.server.SimpleHTTPRequestHandler):
    """Chromium waits for pictures, and the worker that searches, whose time is not that of the page, has some."""

    def do_GET(self):
        time.sleep(15 * self.path.endswith("quickstart.png"))
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_search_served(site, tmp_path):
    handler = functools.partial(SlowPictures, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/index.html?q=clip_norm"
        found = FOUND.findall(browser.document(address, tmp_path))
        server.shutdown()
    assert any("config_keys.html" in link for link in found), found


@pytest.mark.slow
def test_releases_stay_beside_the_newest_pages(tmp_path):
    def git(*arguments):
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True, cwd=clone).stdout

    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--depth=1", ROOT.as_uri(), str(clone)], check=True)
    git("config", "user.email", "maintainer@example.com"), git("config", "user.name", "maintainer")
    programs = Path(sys.executable).parent  # mike calls mkdocs
    path = os.pathsep.join((str(programs), os.environ["PATH"]))
    environment = os.environ | QUIET | {"PYTHONPATH": str(clone), "PATH": path}
    for version in ("0.1", "0.2"):
        deploy = [str(programs / "mike"), "deploy", "--update-aliases", version, "latest"]
        subprocess.run(deploy, check=True, capture_output=True, cwd=clone, env=environment)
    files = git("ls-tree", "-r", "--name-only", "gh-pages").splitlines()
    assert {"0.1/api.html", "0.2/api.html", "latest", "versions.json"} <= set(files)
    assert git("show", "gh-pages:latest") == "0.2"  # a symbolic link
    assert [entry["version"] for entry in json.loads(git("show", "gh-pages:versions.json"))] == ["0.2", "0.1"]
    assert '"version":{"provider":"mike"}' in git("show", "gh-pages:0.2/api.html").replace(" ", "")
