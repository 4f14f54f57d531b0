"""Models of this and of other libraries, images and arrays, on a disk and in a bucket."""

import json

import jax
import numpy as np
import tifffile
from image_models import make_images, save
from PIL import Image
from tiny import config as tiny

import beit_jax
from beit_jax import config as configs
from beit_jax.runtime import bucket

BUCKET = "gs://beit"
IMAGES = ("ant/1.png", "ant/2.png", "bee/1.png", "bee/deep/2.png")
LINES = [
    {"step": 0, "epoch": 0.0, "eval/loss": 1.0, "eval/top1": 0.25},
    {"step": 4, "epoch": 1.0, "loss": 0.9, "learning_rate": 1e-3, "examples_per_second": 10.0, "input_wait": 0.5},
    {"step": 4, "epoch": 1.0, "eval/loss": 0.8, "eval/top1": 0.5},
]


def fill(root):
    """Writes them into a folder, and copies them into the bucket."""
    save(root, "classify", ("ant", "bee"), name="recipe/seed0")
    save(root, "pretrain_pixels", name="pixels")
    with jax.numpy_dtype_promotion("standard"):
        _, params, config = beit_jax.from_pretrained(root / "recipe" / "seed0")
        beit_jax.save_pretrained(root / "hf", params, config, format="hf", max_shard_size=40_000)
        beit_jax.save_pretrained(root / "own", params, config, format="safetensors")
    config = tiny("classify")
    config.labels, config.model.num_classes = ("ant", "bee"), 2
    for name in ("seed0", "seed1"):
        folder = root / "recipe" / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(configs.to_json(config))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
        (folder / "result.json").write_text('{"loss": 0.8, "top1": 0.5}')
        (folder / "pictures").mkdir()
        Image.new("RGB", (8, 8)).save(folder / "pictures" / "images.png")
        (folder / "tables").mkdir()
        (folder / "tables" / "confusion.csv").write_text("true class,ant,bee\nant,1,0\nbee,1,0\n")
    make_images(root / "images", IMAGES)
    np.save(root / "images.npy", np.zeros((3, 20, 20, 3), np.uint8))
    for name in ("a/1.tif", "a/2.tif", "b/1.tif"):
        (root / "tiffs" / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / "tiffs" / name, np.full((6, 5), len(name), np.uint16), photometric="minisblack")
    (root / "file.txt").write_text("a file")
    bucket.file_system().put(f"{root}/", f"{BUCKET}/", recursive=True)
