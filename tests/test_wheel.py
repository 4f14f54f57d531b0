"""The wheel and the sdist: what is installed, without a clone, has the configs, the types and all commands."""

import os
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from image_models import make_images

from beit_jax.config import shipped

# Prints the help of every command; one process for all of them, which imports JAX's dependencies once.
HELP = """
import contextlib, runpy, sys
for command in sys.argv[1:]:
    sys.argv = [command, "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_module(f"beit_jax.{command}", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def built(repository, tmp_path_factory):
    """The folder of the sdist and of the wheel, which is built from the sdist alone."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(repository)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Runs Python in an empty folder, with the installed wheel in front of the clone."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(site)}
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environment)
        return done.returncode, done.stdout, done.stderr

    where = run("-c", "import beit_jax; print(beit_jax.__file__)")[1]
    assert where.startswith(str(site))
    run.folder = folder
    return run


def test_contents(built, repository):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"beit_jax/configs/{name}.py" for name in shipped.names()} | {"beit_jax/py.typed"} <= inside
    assert {str(file.relative_to(repository)) for file in (repository / "beit_jax").rglob("*.py")} <= inside
    assert {name.split("/")[0] for name in inside} == {"beit_jax", "beit_jax-0.1.0.dist-info"}
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CITATION.cff", "LICENSE", "configs/quickstart.py", "docs/features.md", "tests/test_wheel.py"} <= packed


def test_help_of_every_command(installed, repository):
    files = [*(repository / "beit_jax").glob("*.py"), *(repository / "beit_jax").glob("*/__main__.py")]
    files = [file for file in files if '__name__ == "__main__"' in file.read_text()]
    commands = sorted(file.parent.name if file.stem == "__main__" else file.stem for file in files)
    assert {"train", "predict", "embed", "convert", "visualize", "push", "measure_statistics"} < set(commands)
    status, out, error = installed("-c", HELP, *commands)
    assert (status, error) == (0, "")
    assert [command for command in commands if f"usage: python -m beit_jax.{command} " not in out] == []


def test_configs_are_found_by_name(installed):
    status, out, error = installed("-m", "beit_jax.train", "--config", "quickstart:runlocal", "--help")
    assert (status, error) == (0, "") and "--config.tokenizer.batch_size=" in out
    assert shipped.find("configs/quickstart.py") == shipped.find("beit_jax/configs/quickstart.py")


def test_a_wrong_name_lists_the_configs(installed):
    status, _, error = installed("-m", "beit_jax.train", "--config", "pretrian", "--workdir", "run")
    assert status == 2 and len(error.splitlines()) == 1 and error.endswith("did you mean pretrain?\n")
    assert "'pretrian' does not exist" in error and "finetune" in error


def test_a_config_of_ones_own_comes_first(installed):
    own = installed.folder / "configs" / "quickstart.py"
    own.parent.mkdir()
    own.write_text("def get_config(arg=''):\n    raise ValueError('mine')\n")
    error = installed("-m", "beit_jax.train", "--config", "configs/quickstart.py", "--workdir", "run")[2]
    assert "configs/quickstart.py:2: ValueError: mine" in error
    own.unlink()


def test_a_missing_library_is_installed_from_the_wheel(installed, built):
    code = "from beit_jax import extras; print(extras.install_command('torch'))"
    assert installed("-c", code)[1].strip() == "pip install 'beit_jax[parity]'" or "@ file:" in installed("-c", code)[1]


@pytest.mark.slow
def test_the_quick_start_and_what_follows_it(installed):
    run, images = "runs/quickstart/from_beit_seed0", make_images(installed.folder / "photos", ["one.png", "two.png"])
    commands = [
        ["train", "--config=quickstart:seeds=1,runlocal", "--workdir=runs/quickstart"],
        ["predict", "--checkpoint", run, "--images", images, "--out=predictions.csv"],
        ["embed", "--checkpoint", run, "--images", images, "--out=features.npz"],
        ["convert", run, "converted", "--to=hf"],
        ["predict", "--checkpoint=converted", "--images", images, "--out=converted.csv"],
    ]
    for command, *arguments in commands:
        status, _, error = installed("-m", f"beit_jax.{command}", *map(str, arguments))
        assert status == 0, error[-2000:]
    assert (installed.folder / "runs" / "quickstart" / "report.html").exists()
    found = [(installed.folder / name).read_text() for name in ("predictions.csv", "converted.csv")]
    assert len(found[0].splitlines()) == 3 and found[0].split(",")[:2] == found[1].split(",")[:2]
    assert np.load(installed.folder / "features.npz")["features"].shape[0] == 2
