"""Wrong things given to the commands: one clear line each, and nothing is claimed or lost."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from commands import command, refused
from PIL import Image

from beit_jax import train
from beit_jax.config import shipped

# Ops with numbers where the configs name sizes.
MASKS_OF_SIX = (
    "decode|two_views(16, 16)|normalize|map_pixels|blockwise_mask(6, 1, 4)|keep('image', 'tokenizer_image', 'mask')"
)
NO_LABELS = "decode|resize(16)|normalize|keep('image')"
CANVAS_OF_64 = (
    "decode|resize_within(32, 64)|normalize|pad_for_evaluation(64, 64, 32)"
    "|keep('image', 'label_map', 'size', 'label_size')"
)
pytestmark = pytest.mark.usefixtures("in_the_checkout")


@pytest.mark.parametrize(
    ("task", "overrides", "parts"),
    [
        ("pretrain", ["--config.optimizer.lrr=1"], ["lrr'; did you mean --config.optimizer.lr?"]),
        ("pretrain", ["--config.steps=many"], ["steps", "many"]),
        ("pretrain", ["--config.model.image_size=18"], ["18", "patch size 4", "multiple of 4"]),
        (
            "pretrain",
            [f"--config.data.ops={MASKS_OF_SIX}", "--config.tokenizer.groups=4"],
            ["tokenizer_image", "16, 16, 3", "32, 32, 3"],
        ),
        ("pretrain", ["--config.batch_size=12"], ["12", "8 devices", "multiple of 8"]),
        ("pretrain", ["--config.mesh.fsdp=3"], ["fsdp=3", "8 device"]),
        ("pretrain", ["--config.tokenizer.init_from=nowhere"], ["tokenizer", "nowhere", "no checkpoint"]),
        ("finetune", ["--config.init_from=nowhere"], ["nowhere holds no checkpoint"]),
        ("finetune", ["--config.data.source=imagenet2012"], ["imagenet2012"]),
        ("finetune", ["--config.data.source=no_such_set"], ["no_such_set"]),
        ("finetune", ["--config.data.source=folder:/no/such/folder"], ["/no/such/folder"]),
        ("finetune", ["--config.data.ops=decode|blur(3)"], ["blur"]),
        (
            "finetune",
            ["--config.data.ops=decode|resize(20)|normalize|keep('image', 'label')"],
            ["data.ops", "16, 16, 3", "20, 20, 3"],
        ),
        ("tokenizer", ["--config.optimizer.warmup=20 steps"], ["warm-up", "20"]),
        ("tokenizer", ["--flag=1"], ["flag"]),
        ("tokenizer", ["--config.epochs=1e30"], ["epochs=1e+30 are", "steps; expected at most 2147483647"]),
        ("tokenizer", ["--config.epochs=1e-5"], ["epochs=1e-05 is less than one step", "at least 0.0"]),
        ("tokenizer", ["--config.steps=0"], ["epochs=0 and steps=0", "give the length"]),
        ("tokenizer", ["--config.eval_classes=10"], ["data.eval_ops leave no 'label'", "found image"]),
        (
            "kmeans",
            ["--config.eval_classes=7", "--config.data.eval_ops=decode|resize(16)|keep('image', 'label')"],
            ["eval_classes=7", "digits has 10 classes in test", "eval_classes=10"],
        ),
        ("kmeans_features", ["--config.model.features.layer=1"], ["model.features.layer=1", "teacher.layer"]),
        *(
            (kind, ["--config.model.vocab=513"], ["513 codes", "32 x 16 patches of the first batch", "at most 512"])
            for kind in ("vqkd", "kmeans", "kmeans_features")
        ),
        ("kmeans", ["--config.model.patch=5"], ["image_size=16", "5 pixels that a token covers"]),
        ("kmeans_features", ["--config.teacher.path=nowhere"], ["teacher.path", "nowhere"]),
        ("features", ["--config.target.layers=3"], ["target.layers=3", "at most 2"]),
        ("features", ["--config.data.ops=decode|resize(16)|keep('image')"], ["data.ops", "'mask'"]),
        ("pretrain", ["--config.model.remat=foo"], ["model.remat='foo'", "auto, none, full"]),
        ("pretrain", [f"--config.data.ops={MASKS_OF_SIX}", "--config.num_masked=4"], ["masks of", "num_masked=4"]),
        ("pretrain", ["--config.data.ops=decode|resize(16)"], ["data.ops", "'tokenizer_image'", "found image"]),
        ("finetune", ["--config.model.num_classes=7"], ["num_classes=7", "digits has 10 classes"]),
        ("finetune", ["--config.data.labels=900 per class"], ["900 per class", "class 0"]),
        ("finetune", ["--config.data.labels=0.3%"], ["0.3%", "examples of class"]),
        ("finetune", ["--config.optimizer.accumulate=4", "--config.batch_size=24"], ["24", "multiple of 32"]),
        ("finetune", ["--config.resume_from=nowhere"], ["nowhere holds no checkpoint"]),
        ("probe", ["--config.layers=(1, 3)"], ["there is no layer 3", "layers 1 to 2"]),
        ("probe", ["--config.encoder.init_from=nowhere"], ["encoder", "nowhere holds no checkpoint"]),
        (
            "probe",
            ["--config.data.ops=decode|flip_lr|resize(16)"],
            ["data.ops draw random", "flip_lr", "cache_features"],
        ),
        ("segment", ["--config.model.num_classes=5"], ["num_classes=5", "digit_scenes has 11 classes"]),
        ("segment", ["--config.model.layers=(0, 1)"], ["upernet", "four layers", "(0, 1)"]),
        ("segment", ["--config.model.layers=(0, 0, 1, 2)"], ["model.layers", "2", "blocks 0 to 1"]),
        ("segment", ["--config.inference.stride=40"], ["stride=40", "image_size=32"]),
        ("segment", [f"--config.data.eval_ops={CANVAS_OF_64}"], ["eval_ops", "32, 32, 3", "64, 64, 3"]),
        ("segment", ["--config.data.source=digits"], ["label map"]),
        ("segment", ["--config.data.labels=3 per class"], ["label maps", "take a slice"]),
        ("pretrain", ["--config.evals.kinds=knn", f"--config.evals.ops={NO_LABELS}"], ["evals.ops leave no 'label'"]),
    ],
)
def test_wrong_input_is_one_clear_line_and_claims_nothing(tmp_path, task, overrides, parts):
    message = refused(command(task, tmp_path / "run", *overrides))
    for part in parts:
        assert part in message, message
    assert not (tmp_path / "run" / "config.json").exists() or "masks of" in message
    assert not (tmp_path / "run" / "checkpoints" / "0").exists()


@pytest.mark.parametrize(
    ("argument", "override", "parts"),
    [
        ("steps=40", [], ["stage from_beit_seed0", "warm-up of 50 steps", "40 steps"]),
        *(
            pytest.param("", [override], parts, marks=pytest.mark.slow)
            for override, parts in (
                ("--config.from_scratch_seed2.data.eval_ops=decode", ["stage from_scratch_seed2", "add resize"]),
                ("--config.from_beit_seed1.model.variant=Micro/4", ["stage from_beit_seed1", "of another shape"]),
            )
        ),
        (
            "",
            ["--config.pretrain.tokenizer.hidden=8"],
            ["stage pretrain: tokenizer.hidden=8", "stage:tokenizer has 16"],
        ),
        ("", ["--config.from_beit_seed0.batch_size=12"], ["stage from_beit_seed0", "multiple of 8"]),
    ],
)
def test_a_late_stage_is_refused_before_the_first_starts(tmp_path, argument, override, parts):
    message = refused([f"--config=configs/quickstart.py:{argument}", f"--workdir={tmp_path}/run", *override])
    for part in parts:
        assert part in message, message
    assert not (tmp_path / "run").exists()


def test_no_stack_trace_on_the_command_line(tmp_path):
    arguments = [sys.executable, "-m", "beit_jax.train", "--config=configs/none.py", f"--workdir={tmp_path}"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "error: config 'configs/none.py' does not exist; expected a file, or the name of a config of the library: "
        + ", ".join(shipped.names())
    ]


def make_folder(root, images=40, bad=()):
    rng = np.random.default_rng(0)
    for index in range(images):
        folder = root / ("cats", "dogs")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{index:03d}.png"
        Image.fromarray(rng.integers(0, 255, (12, 17, 3), np.uint8)).save(path)
        if index in bad:
            path.write_bytes(path.read_bytes()[:40])


def folder_command(workdir, root, *overrides):
    splits = ["--config.data.split=train[:40%]", "--config.data.eval_split=train[40%:]", "--config.batch_size=16"]
    return command("finetune", workdir, f"--config.data.source=folder:{root}", *splits, *overrides)


@pytest.mark.slow
def test_folder_with_one_unreadable_image(tmp_path, capfd):
    make_folder(tmp_path / "images", bad=(7,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train.main(folder_command(tmp_path / "run", tmp_path / "images", "--config.data.max_bad_fraction=0.1"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["images"] == 24


@pytest.mark.slow
def test_folder_with_too_many_unreadable_images(tmp_path):
    make_folder(tmp_path / "images", bad=range(0, 40, 4))
    message = refused(folder_command(tmp_path / "run", tmp_path / "images"))
    assert "png" in message


def test_empty_folder(tmp_path):
    (tmp_path / "images").mkdir()
    assert "images" in refused(folder_command(tmp_path / "run", tmp_path / "images"))
