"""The hub: pushed, and loaded elsewhere to the last bit; what it refuses is one line. The server is on loopback."""

import errno
import json
import os
import subprocess
import sys

import pytest
from hub_server import OWNER_TOKEN, READER_TOKEN, Hub
from patience import PATIENCE_S
from random_models import written

from beit_jax.convert import hub as client
from beit_jax.errors import UserError

DIGEST = """
import beit_jax, json
from beit_jax.training.params import digest
from beit_jax import config as configs
_, params, config = beit_jax.from_pretrained(%r, **%r)
print(json.dumps([digest(params), config.task, configs.to_json(config)]))
"""
FIND = """
import json, sys
from beit_jax.convert import hub, locate
from beit_jax.errors import UserError
out = []
for name, given in json.loads(%r):
    try:
        out.append(sorted(path.name for path in locate.local_path(name, hub.Options(**given)).iterdir()))
    except UserError as error:
        out.append(str(error))
print(json.dumps(out))
"""
IMPORT = """
import json
from pathlib import Path
from beit_jax import config as configs, foreign_weights
from beit_jax.runtime.checkpoint_folder import find_checkpoint
from beit_jax.training import checkpoint
run, config = Path(%r), configs.defaults("pretrain")
config.init_from = %r
source = foreign_weights.import_sources(dict(one=config), dict(one=run), run)["one"].init_from
print(json.dumps([source, configs.from_json(checkpoint.load_config(find_checkpoint(source))).task]))
"""


@pytest.fixture(scope="module")
def hub():
    made = Hub()
    yield made
    made.server.shutdown()


@pytest.fixture(autouse=True)
def only_these_requests(hub):
    hub.requests.clear()


@pytest.fixture
def python(hub, tmp_path):
    """Runs a program with a cache and a login of its own; gives what it prints last, as JSON."""

    def run(code, status=0, **variables):
        home = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        command = [sys.executable, *(["-c", code] if isinstance(code, str) else code)]
        environment |= home | path | variables
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE_S)
        assert done.returncode == status, done.stderr
        for token in (OWNER_TOKEN, READER_TOKEN):
            assert token not in done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1]) if isinstance(code, str) else done.stderr + done.stdout

    return run


@pytest.fixture
def find(python):
    """What `local_path` finds for each name with its options."""
    return lambda *cases, **variables: python(FIND % json.dumps(cases), **variables)


def test_pushed_and_loaded_elsewhere(hub, python, tmp_path):
    written(tmp_path / "source")
    push = ["-m", "beit_jax.push", str(tmp_path / "source"), "me/digits", "--license", "mit", "--max_shard_size=20KB"]
    said = python([*push, "--private", "--revision=new"], HF_TOKEN=OWNER_TOKEN)
    repository = hub.repositories["me/digits"]
    commit = repository["branches"]["new"]
    files = repository["commits"][commit]
    assert f"published me/digits@{commit}" in said and repository["private"]
    assert {"README.md", "config.json", "model.safetensors.index.json", "preprocessor_config.json"} <= files.keys()
    assert (
        sum(name.endswith(".safetensors") for name in files) > 2
        and not repository["commits"][repository["branches"]["main"]]
    )
    here = python(DIGEST % (str(tmp_path / "source"), {}))
    assert python(DIGEST % (f"me/digits@{commit}", {"token": OWNER_TOKEN})) == here
    # A later push in one file leaves no shard behind, but what no push wrote, and the branch moves.
    others = {"pytorch_model.bin": b"1", "model_int8.safetensors": b"2", "model.onnx.json": b"3"}
    hub.commit("me/digits", "new", others)
    push[-1] = "--revision=new"
    python(push, HF_TOKEN=OWNER_TOKEN)
    now = repository["commits"][repository["branches"]["new"]]
    ours = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(now.keys() - others.keys()) == ours and others.keys() <= now.keys()
    refused = "error: the hub refuses this for me/digits (status 403: You have no "
    assert refused in python(push, 2, HF_TOKEN=READER_TOKEN)


def test_names_and_revisions(hub, find, tmp_path):
    files = written(tmp_path / "one")
    hub.create("a/model")
    first = hub.commit("a/model", "main", files)
    hub.commit("a/model", "main", {"note.txt": b"later"})
    hub.create("a/bin")
    hub.commit("a/bin", "main", {"notes.txt": b""})
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    found = find(
        ("a/model", {}),
        (f"a/model@{first}", {}),
        ("a/model", {"revision": first[:-1] + "x"}),
        (f"a/model@{'0' * 40}", {}),
        ("a/model@main", {"revision": "v2"}),
        ("a/nothing", {}),
        ("a/bin", {}),
        ("a/other", {"local_files_only": True}),
        ("a/model", {"token": "hf_wrong"}),
        ("a/model", {"token": "hf secret\n"}),
    )
    assert found[:2] == [names, names]
    assert "has no revision" in found[2] and "has no revision" in found[3] and "branch, a tag or a commit" in found[3]
    assert "name two revisions" in found[4]
    assert found[5] == (
        "the hub has no a/nothing that can be read; check the id, and if it is private, log in with `hf auth login`, "
        "or set HF_TOKEN"
    )
    assert "a/bin has none of model.safetensors, pytorch_model.bin" in found[6]
    assert found[7].startswith("a/other is not in the cache of the hub, and local_files_only is set")
    assert found[8] == names or "does not accept the token" in found[8]  # the copy in the cache may be read
    assert "token has spaces" in found[9] and "secret" not in found[9]


def test_a_run_starts_from_a_hub_id(hub, python, tmp_path):
    files = written(tmp_path / "one", "pretrain")
    hub.create("a/start", private=True)
    hub.commit("a/start", "main", files)
    code = IMPORT % (str(tmp_path / "run"), "a/start")
    first = python(code, HF_TOKEN=READER_TOKEN)
    hub.commit("a/start", "main", {"config.json": b"{}"})  # the branch moves
    assert python(code, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "nothing")) == first
    assert first[0].startswith(f"{tmp_path}/run/imported/a-start-") and first[1] == "pretrain"
    for file in (file for file in (tmp_path / "run").rglob("*") if file.is_file()):
        assert READER_TOKEN.encode() not in file.read_bytes()


def test_private_and_gated(hub, find, tmp_path):
    files = written(tmp_path / "one")
    hub.create("a/private", private=True)
    hub.create("a/gated", gated=True)
    for id in ("a/private", "a/gated"):
        hub.commit(id, "main", files)
    cases = [(id, {}) for id in ("a/private", "a/gated")]
    private, gated = find(*cases)
    assert "if it is private, log in with `hf auth login`" in private
    assert gated.startswith(f"a/gated is gated: ask for access at {hub.url}/a/gated; then log in")
    private, gated = find(*((id, {"token": "hf_wrong"}) for id, _ in cases))
    assert "does not accept the token for a/private (status 401)" in private and "hf_wrong" not in private + gated
    private, gated = find(*cases, HF_TOKEN=READER_TOKEN)
    assert "model.safetensors" in private and gated.startswith("a/gated is gated") and "log in" not in gated
    assert all("model.safetensors" in found for found in find(*cases, HF_TOKEN=OWNER_TOKEN))


def test_without_the_hub(hub, find, tmp_path):
    hub.create("a/cached")
    hub.commit("a/cached", "main", written(tmp_path / "one", max_shard_size="20KB"))
    cases = ("a/cached", {}), ("a/unknown", {})
    (online, _) = find(*cases)
    assert sum(name.endswith(".safetensors") for name in online) > 2
    for variables in ({"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        cached, unknown = find(*cases, **variables)
        assert cached == online
        reason = "HF_HUB_OFFLINE is set" if "HF_HUB_OFFLINE" in variables else "did not answer for a/unknown"
        assert reason in unknown and "\n" not in unknown


def test_all_files_are_of_one_commit_of_a_branch_that_moves(hub, find, tmp_path):
    files, later = written(tmp_path / "one", max_shard_size="20KB"), written(tmp_path / "two", max_shard_size="10KB")
    hub.create("a/moving")
    hub.commit("a/moving", "main", files)
    hub.moves["model.safetensors.index.json"] = ("a/moving", "main", later)
    (found,) = find(("a/moving@main", {}))
    assert not hub.moves and found == sorted(files)


def test_a_checkpoint_is_found_once(tmp_path, monkeypatch):
    from beit_jax.convert import locate
    from beit_jax.convert.opening import open_checkpoint

    written(tmp_path / "one")
    find, names = locate.local_path, []
    monkeypatch.setattr(locate, "local_path", lambda name, *given: names.append(name) or find(name, *given))
    assert open_checkpoint(str(tmp_path / "one")).config.task == "classify" and len(names) == 1


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (429, "Too many requests", "(status 429: Too many requests); wait some minutes"),
        (400, "invalid licence", "(status 400: invalid licence); correct what it names"),
        (403, "Private storage limit reached", "(status 403: Private storage limit reached); delete something of this"),
        (409, "Conflict", "(status 409: Conflict); something else changes the repository"),
        (412, "A commit has happened since", "something else changes the repository"),
        (413, "Payload too large", "lower max_shard_size"),
        (500, "oops", "the hub has an error of its own for a/b (status 500: oops); try again later"),
    ],
)
def test_what_the_hub_refuses(hub, status, said, expected):
    from huggingface_hub.utils import get_session, hf_raise_for_status

    with pytest.raises(UserError) as error, client.explained("a/b", None, OWNER_TOKEN):
        hf_raise_for_status(get_session().get(f"{hub.url}/refuse/{status}/{said}"), "commit")
    assert expected in str(error.value) and "network" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told(number):
    expected = pytest.raises(UserError, match=r"cannot be kept here .*; free some space, or set HF_HOME")
    with expected, client.explained("a/b", None, None):
        raise OSError(number, os.strerror(number))


def test_interrupted_download_goes_on(hub, find, tmp_path):
    hub.create("a/large")
    files = {"config.json": b"{}", "model.safetensors": os.urandom(24 << 20)}  # the client keeps parts of 10 MiB
    hub.commit("a/large", "main", files)
    hub.cut.append("model.safetensors")
    (found,) = find(("a/large", {}))
    assert "model.safetensors" in found
    ranges = [range for command, path, range in hub.requests if command == "GET" and range and range != "bytes=0-"]
    assert ranges == [f"bytes={10 << 20}-"]
    (copy,) = (tmp_path / "cache" / "hub" / "models--a--large" / "snapshots").glob("*/model.safetensors")
    assert copy.read_bytes() == files["model.safetensors"]
