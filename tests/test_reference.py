"""The reference: every public name is in it with examples that run; config keys and ops are those that are declared."""

import ast
import inspect
import json
import os
import pydoc
import re
import subprocess
import sys

import api_examples
import pytest
from convert.hub_server import OWNER_TOKEN, Hub
from image_models import make_images, save
from patience import PATIENCE_S
from test_docs import PAGES, ROOT, blocks

import beit_jax
from beit_jax import config as configs
from beit_jax import convert, tasks
from beit_jax.data.ops.registry import OPS
from beit_jax.data.preprocessing import build_program

PAGE = (ROOT / "docs" / "api.md").read_text()
EXAMPLES = dict(api_examples.on_page(PAGE))


def imported(text: str) -> set[str]:
    """The names that a program imports from the library, those of modules aside."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    return {name for name in names if name.startswith("beit_jax.") and not inspect.ismodule(pydoc.locate(name))}


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """The examples that fail, in a process of their own, whose hub is on loopback."""
    folder, hub = tmp_path_factory.mktemp("examples"), Hub()
    save(folder / "runs", "pretrain_pixels", name="pretrain")
    save(folder / "runs", "classify", labels=("cat", "dog"), name="finetune")
    make_images(folder, ["cat.png"])
    here = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))), "HF_ENDPOINT": hub.url}
    account = {"HF_TOKEN": OWNER_TOKEN, "HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, api_examples.__file__, str(ROOT / "docs" / "api.md")]
    run = dict(capture_output=True, text=True, cwd=folder, timeout=PATIENCE_S)
    done = subprocess.run(command, env=os.environ | here | account, **run)
    hub.server.shutdown()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, failures):
    assert ">>> " in EXAMPLES[name] and "+SKIP" not in EXAMPLES[name]
    assert failures.get(name) is None, failures[name]


def test_a_wrong_example_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(api_examples, "on_page", lambda page: [api_examples.Example("name", ">>> 1 + 1\n3\n")])
    assert "Got:\n    2" in api_examples.failures(PAGE)["name"]


def test_every_public_name_is_in_the_reference():
    public = {f"beit_jax.{name}" for name in beit_jax.__all__} | {"beit_jax.convert.Pretrained"}
    assert set(convert.__all__) <= {name.rpartition(".")[2] for name in public}
    public |= {f"beit_jax.tasks.{name}" for name in tasks.__all__}
    outside = [file.read_text() for file in (ROOT / "tests" / "outside").glob("*.py")]
    public |= set().union(*map(imported, [*outside, *(text for page in PAGES for text in blocks(page, "python"))]))
    assert public - set(EXAMPLES) == set()


def test_every_function_for_configs_is_in_the_reference():
    used = set().union(*(imported(file.read_text()) for file in (ROOT / "configs").glob("*.py")))
    assert {name for name in used if re.fullmatch(r"beit_jax\.config\.\w+", name)} - set(EXAMPLES) == set()


@pytest.fixture(scope="module")
def pages():
    """The hook of mkdocs that writes the pages of keys and ops."""
    return configs.python_file(ROOT / "docs" / "reference_pages.py")


def test_every_key_is_on_the_page_of_its_task(pages):
    text = pages.config_keys()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for task in configs.task_names():
        for kind in ("dvae", "vqkd", "kmeans"):
            for name in configs.flatten(configs.defaults(task, kind)):
                row = f"\n| `{name}` |"
                assert name == "task" or row in sections["Keys of every task"] or row in sections[f"`task={task}`"]
    clip = "| `optimizer.clip_norm` | `0.0` | float | largest norm of the gradient; 0: no clipping [at least 0] |"
    assert text.count("| `optimizer.clip_norm` |") == 1 and clip in text


def test_every_op_is_on_the_page(pages):
    build_program("decode")  # loads the files of ops
    found = {op.path.rpartition(".")[2]: op for op in pages.find_ops()}
    own = {name: op for name, op in OPS.items() if op.factory.__module__.startswith("beit_jax.")}
    assert found.keys() == own.keys()
    assert all((op.level, op.random) == (own[name].level, own[name].random) for name, op in found.items())
    assert all(op.summary and f"::: {op.path}\n" in pages.ops() for op in found.values())


def test_the_example_of_ops(in_the_checkout):
    made = {}
    exec(blocks(ROOT / "docs" / "ops.md", "python")[0], made)
    assert {name: shape for name, (shape, _) in made["shapes"].items()} == {"image": (1, 32, 32, 3), "label": (1,)}


def test_pages_say_that_versions_exist_where_mike_builds_them(pages, monkeypatch):
    class Config:
        def __init__(self):
            self.extra = {}

    assert pages.on_config(Config()).extra == {}
    monkeypatch.setenv("MIKE_DOCS_VERSION", "{}")
    assert pages.on_config(Config()).extra == {"version": {"provider": "mike"}}
