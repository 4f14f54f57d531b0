"""What lies beside the scripts: the table of the README, the image, the notebook."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import types

import pytest

from beit_jax import config as configs


def test_table_names_every_file(repository):
    folder = repository / "launch"
    text = (folder / "README.md").read_text()
    linked = set(re.findall(r"\]\((?!\.\./)([^)]+)\)", text))
    helpers = {"common.sh", "slurm.sbatch", "example_sweep.py", "README.md", "Dockerfile.dockerignore", ".shellcheckrc"}
    found = {
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and "__pycache__" not in str(file)
    }
    assert linked == found - helpers
    assert "launch/example_sweep.py" in text


def commands(repository):
    text = (repository / "launch" / "README.md").read_text().replace("\n ", "")
    return [command for command in re.findall(r"`([^`]+)`", text) if re.match(r"launch/|python launch/", command)]


def test_commands_of_the_readme(repository, launch, environment):
    found = commands(repository)
    assert len(found) == 6
    for command in found:
        script, *arguments = shlex.split(command)
        if script == "python":
            line = [sys.executable, *arguments, "--dry-run"]
            done = subprocess.run(line, capture_output=True, text=True, cwd=repository, env=environment)
        else:
            at = arguments.index("--") if "--" in arguments else len(arguments)
            done = launch(script.removeprefix("launch/"), *arguments[:at], "--dry-run", *arguments[at:])
        assert done.returncode == 0 and done.stdout, done.stderr


@pytest.fixture(scope="module")
def image(repository):
    """The instructions of the Dockerfile, without comments, one each."""
    text = re.sub(r"^#.*\n", "", (repository / "launch" / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line.split(maxsplit=1) for line in text.replace("\\\n", "").splitlines() if line]


def test_image_copies_what_the_context_holds(repository, image):
    copied = {source for name, rest in image if name == "COPY" for source in rest.split()[:-1]}
    ignored = (repository / "launch" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored and {f"!{source}" for source in copied} == {line for line in ignored if line.startswith("!")}
    assert all((repository / source).exists() for source in copied)
    assert {"launch", "configs", "beit_jax"} <= copied  # restartable.sh and the configs are named in commands


def test_image_runs_as_a_user_and_passes_signals(image):
    names = [name for name, _ in image]
    assert names[0] == "FROM" and image[0][1].startswith("python:3.12-slim")
    assert names[-2:] == ["USER", "ENTRYPOINT"] and image[-2][1] != "root"
    assert json.loads(image[-1][1]) == [
        "python",
        "-m",
        "beit_jax.train",
    ]  # without a shell between, which hears SIGTERM


def test_image_installs_extras_that_exist(repository, image):
    extras = set(re.findall(r'^        "(\w+)": ', (repository / "setup.py").read_text(), re.MULTILINE))
    text = (repository / "launch" / "Dockerfile").read_text()
    for asked in (*re.findall(r"EXTRAS=([\w,]+)", text), "data,tpu"):  # the last is what gke_xpk.sh asks for
        assert set(asked.split(",")) <= extras
    assert any(name == "RUN" and '".[$EXTRAS]"' in rest for name, rest in image)


@pytest.fixture(scope="module")
def notebook(repository):
    return json.loads((repository / "launch" / "colab" / "quickstart.ipynb").read_text())


def source(cell):
    return "".join(cell["source"])


def test_notebook_is_valid_and_stripped(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    for cell in notebook["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            keys |= {"execution_count", "outputs"}
            assert cell["execution_count"] is None and cell["outputs"] == []
            ast.parse(source(cell))
        assert set(cell) == keys


def test_notebook_asks_for_its_repository(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {}
    with pytest.raises(SystemExit, match="REPOSITORY is empty"):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                exec(source(cell), scope)
    assert not list(tmp_path.iterdir())


TRAIN = """
import pathlib, sys
print("argv", *sys.argv[1:])
if "broken" in sys.argv[2]:
    sys.exit(2)
folder = pathlib.Path(sys.argv[2].removeprefix("--workdir=")) / "pretrain" / "pictures"
folder.mkdir(parents=True)
(folder / "masked.png").write_bytes(b"")
"""


@pytest.fixture
def run_notebook(notebook, tmp_path, monkeypatch):
    """Runs all cells but the one that installs, with a trainer that only makes a picture. Gives what was displayed."""
    (tmp_path / "beit_jax").mkdir()
    (tmp_path / "beit_jax" / "__init__.py").write_text("")
    (tmp_path / "beit_jax" / "train.py").write_text(TRAIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    shown = []
    display = types.ModuleType("IPython.display")
    display.display = lambda *what: shown.extend(what)
    display.Markdown, display.Image = str, lambda filename: ("picture", filename)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)

    def run(**settings):
        scope = {}
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code" and "install" not in cell["metadata"].get("tags", []):
                exec(source(cell), scope)
                if cell["id"] == "settings":
                    scope |= settings
        return shown

    return run


def test_notebook_trains_and_shows_the_pictures(run_notebook, repository, capsys):
    shown = run_notebook(ARGS=":runlocal", WORKDIR="out")
    printed = capsys.readouterr().out
    assert printed.startswith("argv --config=configs/quickstart.py:runlocal --workdir=out\n")
    assert shown == ["**pretrain/pictures/masked.png**", ("picture", "out/pretrain/pictures/masked.png")]
    assert "out/report.html" in printed
    assert configs.load(f"{repository}/configs/quickstart.py:runlocal").stages  # what it names is there


def test_notebook_stops_where_training_fails(run_notebook):
    with pytest.raises(SystemExit, match="training ended with status 2"):
        run_notebook(WORKDIR="broken")
