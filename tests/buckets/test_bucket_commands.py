"""Every command but train writes the same from and into a bucket as on a disk, and refuses wrong paths in one line."""

import ast
import io
import json

import numpy as np
import pytest
from PIL import Image
from stored_runs import BUCKET, IMAGES
from tiny import config as tiny

import beit_jax
from beit_jax import embed, evaluate, foreign_weights, measure_statistics, predict, push, tiff_to_arrays
from beit_jax.convert import __main__ as convert
from beit_jax.convert.model_card import results_of
from beit_jax.convert.teachers import load_teacher
from beit_jax.errors import UserError
from beit_jax.feature_files import Described, FeatureFolder
from beit_jax.runtime.bucket_path import INCOMPLETE
from beit_jax.runtime.checkpoint_folder import find_checkpoint
from beit_jax.runtime.paths import as_path
from beit_jax.runtime.urls import is_bucket
from beit_jax.training.params import flatten
from beit_jax.visualize import __main__ as visualize
from beit_jax.visualize import classification, curves, figures, images

pytestmark = pytest.mark.usefixtures("in_the_checkout")


def contents(folder):
    """The bytes of all files below a folder. What safetensors says of its tensors is in any order, and is parsed."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    found = {name: file.read_bytes() for name, file in files.items()}
    return {name: _parse(data) if name.endswith(".safetensors") else data for name, data in found.items()}


def _parse(data):
    size = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:size]), data[size:]


def same_params(one, other):
    one, other = flatten(one), flatten(other)
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(params=["alike", pytest.param("mixed", marks=pytest.mark.slow)])
def places(request, disk, folder, tmp_path):
    """Where commands read, and where they write: on a disk and in the bucket, or from one to the other."""
    if request.param == "alike":
        return [(disk, tmp_path / "out"), (BUCKET, folder / "out")]
    return [(BUCKET, tmp_path / "out"), (disk, folder / "out")]


@pytest.fixture
def undrawn(monkeypatch):
    """Figures, which take most of the time, are not drawn."""
    drawn = {figures: ("draw_panels", "draw_distances"), curves: ("draw_curves",)}
    drawn[classification] = ("draw_sheet", "draw_matrix")
    for module, name in ((module, name) for module, names in drawn.items() for name in names):
        monkeypatch.setattr(module, name, lambda *arguments, **settings: b"a PNG")


@pytest.mark.parametrize(
    "source", ["recipe/seed0", "hf", pytest.param("own/model.safetensors", marks=pytest.mark.slow)]
)
def test_convert_from_and_to_files(places, source):
    """Of a run, of weights in several files with an index, and of one file, to files that other libraries read."""
    made = []
    for root, out in places:
        convert.main([f"{root}/{source}", str(out), "--to", "safetensors" if source == "hf" else "hf"])
        made.append(contents(out))
    assert "config.json" in made[0] and made[0] == made[1]


@pytest.mark.slow
def test_convert_to_a_run(disk, folder):
    """What is uploaded is a complete checkpoint, which can be read again as any other."""
    convert.main([f"{BUCKET}/hf", str(folder / "run"), "--to", "beit_jax"])
    assert not (folder / "run" / INCOMPLETE).exists()
    there, here = beit_jax.from_pretrained(str(folder / "run")), beit_jax.from_pretrained(disk / "hf")
    same_params(there.params, here.params)
    assert there.config.labels == here.config.labels == ("ant", "bee")


def test_the_results_of_a_model_card(disk):
    assert results_of(f"{BUCKET}/recipe/seed0") == results_of(f"{disk}/recipe/seed0")
    assert results_of(f"{BUCKET}/recipe/seed0").values["top1"] == 0.25


@pytest.mark.slow
def test_publishing(disk, tmp_path):
    for root in (disk, BUCKET):
        push.main([f"{root}/recipe/seed0", "me/model", "--license=mit", f"--out={tmp_path / str(root == BUCKET)}"])
    assert contents(tmp_path / "True") == contents(tmp_path / "False")


def test_only_what_is_read_is_fetched(store, disk, folder):
    for name in ("optimizer.bin", "notes.txt", "sub/model.bin"):
        (folder / "hf" / name).write_bytes(b"x" * 1000)
    for file in (disk / "hf").iterdir():
        (folder / "hf" / file.name).write_bytes(file.read_bytes())
    begun = len(store.requests)
    beit_jax.from_pretrained(f"{folder}/hf")
    fetched = {request.name.rpartition("/hf/")[2] for request in store.requests[begun:] if request.received > 500}
    assert "model.safetensors.index.json" in fetched and not {"optimizer.bin", "notes.txt", "sub/model.bin"} & fetched


def test_errors_name_the_object_and_not_its_copy(folder):
    (folder / "weights.pth").write_bytes(b"no weights")
    with pytest.raises(UserError) as error:
        beit_jax.from_pretrained(f"{folder}/weights.pth")
    assert str(error.value).startswith(f"{folder}/weights.pth cannot be read")


def test_the_start_of_a_run(disk, folder, capsys):
    """Weights of another library are imported once into the workdir; an import that was cut short is made again."""
    config = tiny("classify")
    config.init_from = f"{BUCKET}/hf"
    assert foreign_weights.needs_import(config.init_from) and not foreign_weights.needs_import(f"{BUCKET}/pixels")
    foreign_weights.check_source(config.init_from, folder)
    assert foreign_weights.config_of(config.init_from).labels == ("ant", "bee")
    target = foreign_weights.folder_of(config.init_from, folder)
    for left in (INCOMPLETE, "checkpoints/0/params/left"):
        (target / left).write_bytes(b"")
    changed = foreign_weights.import_sources({"run": config}, {"run": folder}, folder)["run"]
    assert changed.init_from == str(target) and not (target / "checkpoints/0/params/left").exists()
    assert find_checkpoint(changed.init_from) == target / "checkpoints" / "0"
    foreign_weights.import_sources({"run": config}, {"run": folder}, folder)
    assert "imported before" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["hf", pytest.param("pixels", marks=pytest.mark.slow)])
def test_a_teacher(disk, name):
    """Weights of another library, and a run."""
    loaded = [load_teacher(f"{root}/{name}", "encoder", layer=1) for root in (BUCKET, disk)]
    (there, params), (here, expected) = loaded
    same_params(params, expected)
    assert there.section.variant == here.section.variant


def test_evaluate(places, undrawn, capsys):
    printed, made = [], []
    for root, out in places:
        data = [f"--config.data.source=folder:{root}/images", "--config.data.eval_split=train"]
        evaluate.main([f"--checkpoint={root}/recipe/seed0", *data, f"--pictures={out}"])
        printed.append(capsys.readouterr().out)
        made.append(contents(out))
    assert made[0] == made[1] and "confusion.csv" in made[0] and printed[0] == printed[1]


SEVERAL = pytest.param(["images/ant", "images/bee/1.png"], marks=pytest.mark.slow)


@pytest.mark.parametrize("images", [["images"], SEVERAL, pytest.param(["images.npy"], marks=pytest.mark.slow)])
def test_predict(places, capsys, images):
    tables = []
    for root, out in places:
        paths, table = [f"{root}/{name}" for name in images], out.with_name(f"{out.name}.csv")
        predict.main([f"--checkpoint={root}/recipe/seed0", "--images", *paths, f"--out={table}"])
        tables.append(table.read_text().replace(f"{root}/", ""))
    assert len(tables[0].splitlines()) > 2 and tables[0] == tables[1]


def test_files_of_features(disk, folder, tmp_path):
    """Shards, of which one is there when the command is started again, and one file of all of them."""
    made = []
    for root in (tmp_path, folder):
        shards = FeatureFolder(root / "features")
        shards.claim({"images": "3"}, ["ant", "bee"])
        for shard in range(2):
            rows = np.full((2 - shard, 4), shard, np.float32)
            images = Described([f"{shard}-{row}" for row in range(len(rows))], [shard] * len(rows))
            assert shards.rows(shard) is None
            shards.write(shard, (4,), [(np.arange(len(rows)), rows)], images)
        again = FeatureFolder(root / "features")
        again.claim({"images": "3"}, ["ant", "bee"])
        assert [again.rows(shard) for shard in range(3)] == [2, 1, None]
        with pytest.raises(UserError, match="has the features of another command: images is '3' there"):
            again.claim({"images": "4"}, None)
        made.append(contents(root / "features"))
        again.join(root / "features.npz", 2, labelled=True)
        assert not (root / "features").exists()
        archive = np.load(io.BytesIO((root / "features.npz").read_bytes()), allow_pickle=False)
        made[-1] |= {name: archive[name].tolist() for name in archive.files}
        with pytest.raises(UserError, match=r"holds .*, which is not of this command"):
            FeatureFolder(as_path(f"{BUCKET}/images") if is_bucket(root) else disk / "images").claim({}, None)
    assert made[0] == made[1] and len(made[0]) == 8 + 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shards", "resumed", "features.npz"])
def test_embed(places, capsys, name):
    """A folder of shards, of which one may be missing and is computed again; and one file."""
    made = []
    for root, out in places:
        arguments = [f"--checkpoint={root}/pixels", f"--images={root}/images", f"--out={out / name}", "--shard_size=2"]
        embed.main(arguments)
        if name == "resumed":
            (out / name / "features-00001.npy").unlink()
            embed.main(arguments)
        made.append(contents(out))
        made[-1].pop(f"{name}/key.json", None)  # which names the paths
    assert made[0] and made[0] == made[1] and "features.npz.parts/key.json" not in made[1]


def test_pictures(folder, disk):
    picture = images.read_picture(f"{BUCKET}/images/ant/1.png")
    assert picture == images.read_picture(f"{disk}/images/ant/1.png")
    images.write_pictures(str(folder / "out"), [("one", np.asarray(picture))])
    assert images.read_picture(str(folder / "out" / "one.png")) == picture


@pytest.mark.slow
def test_pictures_of_attention(places, undrawn, capsys):
    made = []
    for root, out in places:
        visualize.main(
            [
                "attention",
                f"--checkpoint={root}/pixels",
                f"--image={root}/images/ant/1.png",
                f"--out={out}",
                "--layer=1",
            ]
        )
        made.append(contents(out))
        assert f"{out}/attention_distance.png" in capsys.readouterr().out
    assert made[0] == made[1] and len(made[0]) > 2


@pytest.mark.slow
def test_the_report_of_a_run(disk, undrawn, capsys):
    """It is written beside the run, with its curves."""
    reported = disk / "recipe" / "seed1", as_path(f"{BUCKET}/recipe/seed1")
    for workdir in reported:
        visualize.main(["report", str(workdir)])
    here, there = map(contents, reported)
    assert here == there and "report.html" in here and any(name.startswith("curve_") for name in here)


def test_the_report_of_several_runs(disk, folder, tmp_path, undrawn, capsys):
    for root in (disk, BUCKET):
        page = tmp_path / f"{root == BUCKET}.md"
        page.write_text("<!-- begin seed0 -->\n<!-- end seed0 -->\n<!-- begin seed1 -->\n<!-- end seed1 -->\n")
        visualize.main(["report", f"{root}/recipe/seed0", f"{root}/recipe/seed1", f"--markdown={page}"])
    assert (disk / "recipe" / "report.html").read_text() == as_path(f"{BUCKET}/recipe/report.html").read_text()
    assert (tmp_path / "True.md").read_text() == (tmp_path / "False.md").read_text()
    apart = [f"{disk}/recipe/seed0", f"{BUCKET}/recipe/seed1"]
    with pytest.raises(UserError, match="no folder in common for the page; name one with --out"):
        visualize.main(["report", *apart])
    visualize.main(["report", *apart, f"--out={folder}/page.html"])
    assert "<html" in (folder / "page.html").read_text()


def test_the_config_of_a_run(disk, capsys):
    """Pixels of the images in a bucket, by a config that lies there."""
    config = f"--config={BUCKET}/recipe/seed0/config.json"
    measure_statistics.main([config, f"--config.data.source=folder:{BUCKET}/images"])
    means = ast.literal_eval(capsys.readouterr().out.partition("=")[2].strip().strip("'"))[0]
    pixels = np.concatenate([np.asarray(Image.open(disk / "images" / name)).reshape(-1, 3) for name in IMAGES])
    np.testing.assert_allclose(means, pixels.mean(0) / 255, rtol=1e-4)


def test_tiff_files(places, capsys):
    made = []
    for root, out in places:
        tiff_to_arrays.main([f"--images={root}/tiffs", f"--out={out}"])
        made.append(contents(out))
    assert made[0] == made[1] and {"image.npy", "label.npy", "class_names.npy"} == set(made[0])
