"""Saved models with random parameters, and folders of images, for the commands that bring them together."""

import os

import jax
import numpy as np
from PIL import Image
from tiny import config as tiny

import beit_jax
from beit_jax.convert.preprocessing import preprocess_section
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks import create_task


def save(folder, task, labels=(), name="model"):
    """A model with random parameters, as a run of this library that comes from another."""
    config = tiny(task)
    config.data.ops = config.data.eval_ops = ""
    if task == "classify":
        config.labels, config.model.init_scale = labels, 1.0
        config.model.num_classes = len(labels) or config.model.num_classes
    with config.unlocked():
        config.preprocess = preprocess_section(16, "bilinear", 18)
    with jax.numpy_dtype_promotion("standard"):
        params = run_once(create_task(config).init, jax.random.key(0))
        beit_jax.save_pretrained(folder / name, params, config, format="beit_jax")
    return folder / name


def make_images(root, names):
    random = np.random.default_rng(0)
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (17 + number, 20, 3), dtype=np.uint8)).save(os.fsencode(path), "PNG")
    return root
