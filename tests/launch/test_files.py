"""The files beside the scripts: the README's table, the image."""

import json
import re
import shlex
import subprocess
import sys

import pytest


def test_table_names_every_file(repository):
    folder = repository / "launch"
    text = (folder / "README.md").read_text()
    linked = set(re.findall(r"\]\((?!\.\./)([^)]+)\)", text))
    helpers = {"common.sh", "slurm.sbatch", "example_sweep.py", "README.md", "Dockerfile.dockerignore", ".shellcheckrc"}
    helpers |= {"colab/set_address.py"}
    files = {
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and "__pycache__" not in str(file)
    }
    assert linked == files - helpers
    assert "launch/example_sweep.py" in text


def commands(repository):
    text = (repository / "launch" / "README.md").read_text().replace("\n ", "")
    own = re.compile(r"launch/|python launch/(?!colab)")
    return [command for command in re.findall(r"`([^`]+)`", text) if own.match(command)]


def test_commands_of_the_readme(repository, launch, environment):
    readme = commands(repository)
    assert len(readme) == 6
    for command in readme:
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
    """The instructions of the Dockerfile, without comments."""
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
    # Without a shell in between, which would receive SIGTERM.
    assert json.loads(image[-1][1]) == ["python", "-m", "beit_jax.train"]


def test_image_installs_extras_that_exist(repository, image):
    extras = set(re.findall(r'^        "(\w+)": ', (repository / "setup.py").read_text(), re.MULTILINE))
    text = (repository / "launch" / "Dockerfile").read_text()
    for requested in (*re.findall(r"EXTRAS=([\w,]+)", text), "data,gcs,tpu"):  # the last one is in gke_xpk.sh
        assert set(requested.split(",")) <= extras
    assert any(name == "RUN" and '".[$EXTRAS]"' in rest for name, rest in image)
