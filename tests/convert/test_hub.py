"""The hub: pushed, and loaded elsewhere to the last bit; what it refuses is one line. The server is on loopback."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny
import yaml
from hub_server import OWNER_TOKEN, READER_TOKEN, Hub
from patience import PATIENCE_S
from random_models import pretrained

import beit_jax
from beit_jax import config as configs
from beit_jax.convert import hub as client
from beit_jax.convert import pushing
from beit_jax.data.sources import data_sets
from beit_jax.errors import UserError
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks import create_task

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


def written(folder, task="classify", format="hf", **more):
    _, params, config = pretrained(task)
    beit_jax.save_pretrained(folder, params, config, format=format, **more)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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


@pytest.mark.parametrize("task", ["tokenizer", "vqkd", "kmeans", "probe", "pretrain", "pretrain_pixels", "segment"])
def test_every_task_is_published_to_the_last_bit(tmp_path, task):
    import jax

    from beit_jax.training import checkpoint
    from beit_jax.training.params import digest

    config = tiny.config(task)
    for part, key in {"tokenizer": "init_from", "encoder": "init_from", "teacher": "path"}.items():
        if part in config:
            config[part][key] = "/home/somebody/run"
    config.data.update(dict(source="folder:/home/somebody/images", eval_ops="decode|resize(16)|keep('image')"))
    params = run_once(create_task(config).init, jax.random.key(1))
    checkpoint.save_params(tmp_path / "run", params, configs.to_json(config))
    published = pushing.write_published(tmp_path / "out", tmp_path / "run", "me/it", license="mit")
    model, again, theirs = beit_jax.from_pretrained(tmp_path / "out")
    assert (model is None) == (task == "kmeans")  # which is no network
    assert digest(again) == digest(params)
    assert theirs.task == published.task and theirs.model.to_dict() == config.model.to_dict()
    texts = [path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix in (".json", ".md")]
    assert not any("somebody" in text for text in texts)
    card = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])
    assert card["license"] == "mit" and "beit_jax" in card["tags"]
    assert card["library_name"] == ("transformers" if task == "pretrain" else "beit_jax")


@pytest.mark.parametrize("prefix", ["folder", *data_sets.PREFIXES])
def test_nothing_of_the_machine_is_published(tmp_path, prefix):
    _, params, config = pretrained("classify")
    config = config.copy_and_resolve_references()
    config.data.update(dict(source=f"{prefix}:/home/somebody/x", data_dir="/home/somebody", eval_ops="decode"))
    config.update(dict(loggers=("wandb",), project="somebody", init_from="/home/somebody/run"))
    beit_jax.save_pretrained(tmp_path / "run", params, config, format="beit_jax")
    pushing.write_published(tmp_path / "out", tmp_path / "run", "me/it", license="mit", format="safetensors")
    for file in ("README.md", "config.json"):
        text = (tmp_path / "out" / file).read_text()
        assert "somebody" not in text and "wandb" not in text and prefix + ":" not in text


def test_evaluation_demands_the_part_that_is_not_published(tmp_path):
    import jax

    from beit_jax.convert import own_layout
    from beit_jax.convert.opening import open_checkpoint
    from beit_jax.training.params import flatten

    for task, key in {"probe": "encoder.init_from", "pretrain": "tokenizer.init_from", "vqkd": "teacher.path"}.items():
        config = tiny.config(task)
        config.update_from_flattened_dict({key: "/home/somebody/run"})
        config.data.eval_ops = "decode|resize(16)|keep('image')"
        shapes = jax.eval_shape(create_task(config).init, jax.random.key(1))
        zeros = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in flatten(shapes).items()}
        (tmp_path / task).mkdir()
        own_layout.write(tmp_path / task, zeros, config, "5GB")
        opened = open_checkpoint(str(tmp_path / task)).config
        with pytest.raises(UserError, match=f"{key} is empty"):
            configs.validate(opened)


def test_card_of_a_converted_checkpoint_claims_no_data(tmp_path):
    written(tmp_path / "foreign")
    pushing.write_published(tmp_path / "out", tmp_path / "foreign", "me/it", license="mit")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "imagenet" not in text.lower() and "The images are not a published data set, or are not known." in text


def test_card_names_the_revision(tmp_path):
    written(tmp_path / "foreign")
    cases = {"hf": 'from_pretrained("me/it", revision="small")', "timm": 'create_model("hf-hub:me/it@small"'}
    for format, words in cases.items():
        folder, given = tmp_path / format, dict(license="mit", revision="small", format=format)
        pushing.write_published(folder, tmp_path / "foreign", "me/it", **given)
        text = (folder / "README.md").read_text()
        assert 'beit_jax.from_pretrained("me/it@small")' in text and words in text


def test_snippet_of_a_tokenizer_runs(tmp_path, monkeypatch):
    import re

    import jax

    from beit_jax.training import checkpoint

    config = tiny.config("kmeans")
    config.data.eval_ops = "decode|resize(16)|keep('image')"
    params = run_once(create_task(config).init, jax.random.key(1))
    checkpoint.save_params(tmp_path / "run", params, configs.to_json(config))
    pushing.write_published(tmp_path / "out", tmp_path / "run", "me/km", license="mit")
    (code,) = re.findall("```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").rename(tmp_path / "me-km")
    found = {}
    exec(code.replace("me/km", "me-km"), found)
    tokens = found["tokenizer"].targets(found["params"], np.zeros((2, 16, 16, 3), np.float32))
    assert tokens.shape == (2, 4, 4)


@pytest.mark.parametrize(
    "settings", [{"task": "classify", "model": 3}, {"task": 3}, {"task": "classify"}, {"task": ["classify"]}, [], 3]
)
def test_a_damaged_config_is_told_in_one_line(tmp_path, settings):
    written(tmp_path / "it", format="safetensors")
    text = json.dumps({"library_name": "beit_jax", "config": settings})
    (tmp_path / "it" / "config.json").write_text(text)
    with pytest.raises(UserError) as error:
        beit_jax.from_pretrained(tmp_path / "it")
    assert all("config.json" in line and "\n" not in line for line in error.value.lines)


def test_a_format_without_a_layout_is_refused_before_the_weights_are_read(tmp_path, monkeypatch):
    _, params, config = pretrained("segment")
    config = config.copy_and_resolve_references()
    config.data.eval_ops = "decode"
    beit_jax.save_pretrained(tmp_path / "run", params, config, format="beit_jax")
    monkeypatch.setattr(pushing, "read_pretrained", lambda *args, **given: pytest.fail("weights are read"))
    with pytest.raises(UserError, match="format='timm' has no layout"):
        pushing.write_published(tmp_path / "out", tmp_path / "run", "me/it", license="mit", format="timm")
    with pytest.raises(UserError, match="expected a number of bytes"):
        pushing.write_published(tmp_path / "out", tmp_path / "run", "me/it", license="mit", max_shard_size="5")


def test_card_of_a_run(tmp_path):
    _, params, config = pretrained("classify")
    config = config.copy_and_resolve_references()
    beit_jax.save_pretrained(tmp_path / "run", params, config, format="beit_jax")
    lines = [{"step": 0, "eval/top1": 0.5, "eval/loss": 1.0}, {"step": 9, "eval/top1": 0.9}]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pushing.write_published(tmp_path / "out", tmp_path / "run", "me/digits", license="cc-by-4.0")
    text = (tmp_path / "out" / "README.md").read_text()
    card = yaml.safe_load(text.split("---")[1])
    assert card["pipeline_tag"] == "image-classification" and card["metrics"] == ["accuracy"]
    (result,) = card["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.5  # of the step of the checkpoint
    assert "| 50.0 |" in text and 'BeitForImageClassification.from_pretrained("me/digits")' in text
    assert 'beit_jax.from_pretrained("me/digits")' in text and "bao2022beit" in text


def test_wrong_pushes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(UserError) as error:
        pushing.check_push("digits", None, "unilm")
    assert len(error.value.lines) == 3
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="nobody is logged in"):
        beit_jax.push_to_hub(tmp_path, "me/it", license="mit")


# Weights in several files.


@pytest.fixture
def sharded(tmp_path):
    written(tmp_path / "many", max_shard_size="20KB")
    return tmp_path / "many"


def index_of(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def write_index(folder, weight_map):
    text = weight_map if isinstance(weight_map, str) else json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def refused(folder):
    with pytest.raises(UserError) as error:
        beit_jax.from_pretrained(folder)
    return str(error.value)


def test_several_files_are_one(tmp_path, sharded):
    from beit_jax.training.params import digest

    written(tmp_path / "one")
    expected = digest(beit_jax.from_pretrained(tmp_path / "one").params)
    assert digest(beit_jax.from_pretrained(sharded).params) == expected
    assert digest(beit_jax.from_pretrained(sharded / "model.safetensors.index.json").params) == expected
    sizes = [path.stat().st_size for path in sharded.glob("*.safetensors")]
    assert len(sizes) > 2 and sorted(sizes)[-2] < 24_000


def test_damaged_sets_of_files_are_refused(sharded):
    weight_map = index_of(sharded)
    file = weight_map["classifier.weight"]
    other = next(name for name in set(weight_map.values()) if name != file)
    for wrong in ("../secret.safetensors", "/etc/x.safetensors", "model.bin", 3, "..\\x.safetensors"):
        write_index(sharded, weight_map | {"classifier.weight": wrong})
        assert "expected the name of a .safetensors file in the same folder" in refused(sharded)
    write_index(sharded, weight_map | {"ghost": file})
    assert "says that ghost would be in" in refused(sharded)
    write_index(sharded, weight_map | {"classifier.weight": other})
    assert "which the index says is in another file" in refused(sharded)
    write_index(sharded, {name: place for name, place in weight_map.items() if name != "classifier.weight"})
    assert "holds classifier.weight, which the index does not name" in refused(sharded)
    twice = json.dumps({"weight_map": weight_map})[:-2] + f', "classifier.weight": "{other}"' + "}}"
    write_index(sharded, twice)
    assert "classifier.weight stands there twice" in refused(sharded)
    write_index(sharded, {})
    assert "has no weight_map" in refused(sharded)
    write_index(sharded, weight_map)
    shutil.move(sharded / file, sharded / "elsewhere")
    assert f"names files that are not there: {file}" in refused(sharded)


def test_files_of_torch_with_an_index(tmp_path, repository):
    from beit_jax.convert.state_dicts import read_torch
    from beit_jax.training.params import digest

    official, shard = repository / "tests" / "golden" / "official.pth", "pytorch_model-00001-of-00001.bin"
    weight_map = dict.fromkeys(read_torch(official).tensors, shard)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert f"names files that are not there: {shard}" in refused(tmp_path)
    shutil.copy(official, tmp_path / shard)
    assert digest(beit_jax.from_pretrained(tmp_path).params) == digest(beit_jax.from_pretrained(official).params)


def test_sizes_of_files_are_checked(tmp_path):
    for size in ("5", "GB", 0, "-1GB", True):
        with pytest.raises(UserError, match="expected a number of bytes"):
            written(tmp_path / "x", max_shard_size=size)
