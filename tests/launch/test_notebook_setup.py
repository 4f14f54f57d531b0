"""The address in the notebooks, and the cell that clones and installs."""

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import notebooks
import pytest

from beit_jax import config as configs

set_address = configs.python_file(notebooks.FOLDER / "set_address.py")
ADDRESS = "https://github.com/owner/name"


def test_all_notebooks_and_pages_have_the_one_address():
    assert set_address.changed_files() == {}


def test_an_address_is_written_everywhere(tmp_path, monkeypatch, repository):
    for file in ("setup.py", "README.md", "launch/README.md", *set_address.notebooks()):
        copy = tmp_path / Path(repository, file).relative_to(repository)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(Path(repository, file).read_bytes())
    before = {file: file.read_text() for file in tmp_path.rglob("*") if file.is_file()}
    monkeypatch.setattr(set_address, "ROOT", tmp_path)
    set_address.main([f"{ADDRESS}.git"])
    for file in set_address.notebooks():
        cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(file.read_text())["cells"]}
        address = f"https://colab.research.google.com/github/owner/name/blob/main/launch/colab/{file.name}"
        assert cells["title"].startswith("[![Open in Colab](") and f"({address})\n\n# " in cells["title"]
        assert f'REPOSITORY = "{ADDRESS}.git"\n' in cells["settings"]
        assert f"({address})" in (tmp_path / "launch" / "README.md").read_text()
    assert f'ADDRESS = "{ADDRESS}.git"' in (tmp_path / "setup.py").read_text() and not set_address.changed_files()
    set_address.main(["https://example.org/name"])  # which Colab does not open
    assert not any("colab.research" in file.read_text() for file in before)
    set_address.main([""])
    assert {file: file.read_text() for file in before} == before


@pytest.fixture
def install(monkeypatch, tmp_path):
    """A function that runs the cell in a folder and returns the commands that it starts, which do nothing."""
    (cell,) = [cell for cell in notebooks.read("quickstart")["cells"] if cell["id"] == "install"]
    commands, scope = [], {"REPOSITORY": ADDRESS}
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not Path(path, "beit_jax").is_dir()])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    installed = {"tensorflow": "1", "numpy": "2"}

    def run(command, **_):
        commands.append(command)
        if "clone" in command:
            for name in ("beit_jax", "configs"):
                Path(command[-1], name).mkdir(parents=True)
        if "--editable" in command:
            installed.update(beit_jax="0", numpy="3")
        return types.SimpleNamespace(stdout="| CUDA Version: 12.4 |")

    def call(folder=tmp_path, **settings):
        commands.clear()
        if "START" not in scope:
            monkeypatch.chdir(folder)
        exec("".join(cell["source"]), scope | settings if settings else scope)
        return [" ".join(command).removeprefix(f"{sys.executable} -m ") for command in commands]

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: [name] if name in installed else [])
    monkeypatch.setattr(importlib.metadata, "version", installed.get)
    monkeypatch.setitem(sys.modules, "numpy", types.SimpleNamespace(__version__="3"))
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    call.installed = installed
    return call


CLONE = f"git clone --depth 1 {ADDRESS} "


def test_a_notebook_alone_clones_and_installs_once(install, tmp_path):
    assert install() == [f"{CLONE}{tmp_path}/beit_jax_source", "pip install --quiet --editable .[data,convert]"]
    assert os.getcwd() == f"{tmp_path}/beit_jax_source"
    assert install() == [] and os.getcwd() == f"{tmp_path}/beit_jax_source"


def test_in_a_clone_nothing_is_cloned(install, repository):
    assert install(repository / "launch" / "colab", REPOSITORY="") == ["pip install --quiet --editable .[data,convert]"]
    assert os.getcwd() == str(repository) == sys.path[0]


def test_where_the_package_is_importable_nothing_is_cloned(install, repository, tmp_path, monkeypatch):
    spec = types.SimpleNamespace(origin=str(repository / "beit_jax" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    install.installed["beit_jax"] = "0"
    assert install(tmp_path, REPOSITORY="") == [] and os.getcwd() == str(repository)


def test_without_an_address_and_a_clone_it_says_what_to_do(install, tmp_path):
    with pytest.raises(SystemExit, match="REPOSITORY is empty; write the address"):
        install(REPOSITORY="")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "cuda", "extra"),
    [
        ("/dev/nvidia0", "12.4", "jax[cuda12]"),
        ("/dev/nvidia0", "13.0", "jax[cuda13]"),
        ("/dev/accel0", "", "jax[tpu]"),
    ],
)
def test_the_accelerator_of_colab(install, monkeypatch, file, cuda, extra):
    run, exists = subprocess.run, os.path.exists
    monkeypatch.setattr(
        os.path, "exists", lambda path: path == file or (not str(path).startswith("/dev/") and exists(path))
    )
    smi = types.SimpleNamespace(stdout=f"CUDA Version: {cuda}")
    monkeypatch.setattr(subprocess, "run", lambda command, **more: smi if "smi" in command[0] else run(command, **more))
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    assert install()[1:] == [
        "pip uninstall --quiet --yes tensorflow",
        f"pip install --quiet --editable .[data,convert] {extra}",
    ]


def test_a_session_with_older_packages_restarts(install, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "numpy", types.SimpleNamespace(__version__="2"))
    restarts = []
    kernel = types.SimpleNamespace(do_shutdown=restarts.append)
    application = types.SimpleNamespace(instance=lambda: types.SimpleNamespace(kernel=kernel))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(Application=application))
    install()
    assert restarts == [True] and re.search("it restarts; then choose Run all again", capsys.readouterr().out)
    assert install() == [] and restarts == [True]
