"""Notebooks: valid, without outputs; every cell runs twice on data of scikit-learn; the result opens in a browser."""

import ast
import os
import sys
import types

import browser
import jax
import notebooks
import numpy as np
import pytest
import tiny

from beit_jax import config as configs
from beit_jax import save_pretrained, tasks
from beit_jax.convert import preprocessing

NAMES = sorted(path.stem for path in notebooks.FOLDER.glob("*.ipynb"))


read = notebooks.read


def source(cell):
    return "".join(cell["source"])


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_valid_and_stripped(name):
    notebook = read(name)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names) and names[:3] == ["title", "settings", "install"]
    for cell in notebook["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            keys |= {"execution_count", "outputs"}
            assert cell["execution_count"] is None and cell["outputs"] == []
            ast.parse(source(cell))
        assert set(cell) == keys


def test_all_notebooks_install_the_same_way():
    assert len({source(cell) for name in NAMES for cell in read(name)["cells"] if cell["id"] == "install"}) == 1


def opens_in_a_browser(notebook, folder):
    page = notebooks.write_page(notebook, folder / "notebook.html")
    assert browser.console(page, folder / "profile") == []


@pytest.mark.slow
def test_quickstart(tmp_path):
    notebook = notebooks.execute("quickstart", ARGS=":runlocal,seeds=1", WORKDIR=str(tmp_path / "run"))
    assert {"pretrain/pictures/masked.png", "tokenizer/pictures/reconstruction.png"} <= set(
        notebooks.headings(notebook)
    )
    assert len(notebooks.pictures(notebook)) == len(notebooks.headings(notebook))
    opens_in_a_browser(notebook, tmp_path)


@pytest.mark.slow
def test_masking(tmp_path):
    notebook = notebooks.execute("masking", STEPS=2, WORKDIR=str(tmp_path / "run"))
    views, masks, tokens = notebooks.pictures(notebook)
    assert all(picture.std() > 20 for picture in (views, masks, tokens))
    grey = (views == 127).all(-1) | (views == 128).all(-1)
    # 38% of a third of the pictures is masked, and there are margins and titles.
    assert 0.05 < grey.mean() < 0.38 / 3
    assert "two_views(224, 112)" in notebooks.printed(notebook) and (tmp_path / "run" / "report.html").is_file()
    opens_in_a_browser(notebook, tmp_path)


@pytest.mark.slow
def test_your_images(tmp_path):
    notebook = notebooks.execute("your_images", MINUTES=0.01, WORKDIR=str(tmp_path / "run"))
    printed = notebooks.printed(notebook)
    assert len(notebooks.pictures(notebook)) == 1
    assert "1617 training images, 180 held out; 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in printed
    assert all(f"from {arm}: " in printed for arm in ("beit", "scratch"))
    assert "of 180 held-out images classified correctly" in printed
    stages = {"tokenizer", "pretrain", "from_beit_seed0", "from_scratch_seed0"}
    assert {path.name for path in (tmp_path / "run").iterdir()} >= stages
    opens_in_a_browser(notebook, tmp_path)


def test_the_recipe_of_your_images_is_valid(tmp_path, in_the_checkout):
    scope = {}
    for cell in read("your_images")["cells"]:
        if cell["id"] in ("settings", "images", "recipe"):
            exec(source(cell), scope)
            scope |= dict(WORKDIR=str(tmp_path))
    configs.validate(scope["recipe"])
    assert list(scope["recipe"].stages) == ["tokenizer", "pretrain", "from_beit_seed0", "from_scratch_seed0"]


@pytest.mark.slow
def test_attention(tmp_path):
    config = tiny.config("classify")
    with config.unlocked():
        config.preprocess = preprocessing.official_section(config.model.image_size)
    with jax.numpy_dtype_promotion("standard"):
        params = jax.tree.map(np.asarray, tasks.create_task(config).init(jax.random.key(0)))
    save_pretrained(tmp_path / "hf", params, config, format="hf")
    notebook = notebooks.execute("attention", CHECKPOINT=str(tmp_path / "hf"), OUT=str(tmp_path / "maps"))
    written = sorted((tmp_path / "maps").rglob("*.png"))
    assert written and notebooks.headings(notebook) == [str(file.relative_to(tmp_path / "maps")) for file in written]
    assert len(notebooks.pictures(notebook)) == len(written)  # the photograph is a JPEG file
    opens_in_a_browser(notebook, tmp_path)


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
def run_quickstart(tmp_path, monkeypatch):
    """A function that runs all cells except the one that installs, with a trainer that only makes a picture.

    It returns what was displayed."""
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
        for cell in read("quickstart")["cells"]:
            if cell["cell_type"] == "code" and "install" not in cell["metadata"].get("tags", []):
                exec(source(cell), scope)
                if cell["id"] == "settings":
                    scope |= settings
        return shown

    return run


def test_quickstart_trains_and_shows_the_pictures(run_quickstart, repository, capsys):
    shown = run_quickstart(ARGS=":runlocal", WORKDIR="out")
    printed = capsys.readouterr().out
    assert printed.startswith("argv --config=configs/quickstart.py:runlocal --workdir=out\n")
    assert shown == ["**pretrain/pictures/masked.png**", ("picture", "out/pretrain/pictures/masked.png")]
    assert "out/report.html" in printed
    assert configs.load(f"{repository}/configs/quickstart.py:runlocal").stages  # the config that it names exists


def test_quickstart_stops_where_training_fails(run_quickstart):
    with pytest.raises(SystemExit, match="training ended with status 2"):
        run_quickstart(WORKDIR="broken")
