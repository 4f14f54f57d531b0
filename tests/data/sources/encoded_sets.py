"""Data sets whose images have the value of their number, and what the pipeline makes of them."""

import io

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from beit_jax import config as configs
from beit_jax import local_files
from beit_jax.data import pipeline
from beit_jax.errors import UserError


def png(number):
    """An image whose pixels all have the value of its number."""
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (number,) * 3).save(file, "PNG")
    return file.getvalue()


def number_of(content):
    with Image.open(io.BytesIO(content)) as image:
        return image.getpixel((0, 0))[0]


def section(source, **changes):
    keys = dict(source=source, data_dir="", split="train[:90%]", eval_split="train[90%:]", labels="all", repeats=1)
    ops = dict(ops="decode|resize(4)|flip_lr", eval_ops="decode|resize(4)", shuffle_buffer=10, max_bad_fraction=0.0)
    return ConfigDict(keys | ops | changes)


def numbers(batches):
    return [np.rint(batch["image"][:, 0, 0, 0] * 255).astype(int).tolist() for batch in batches]


def first(stream, steps):
    iterator = iter(stream)
    return [next(iterator) for _ in range(steps)]


def check_refused(source, message, split="train"):
    config = configs.defaults("classify")
    config.data.source, config.data.split, config.data.eval_split = source, "train", split
    with pytest.raises(UserError, match=message) as error:
        local_files.check_data(config)
    assert all("\n" not in line for line in error.value.lines)


def check_every_image_once(source, classes=6):
    """Of 60 images in classes of ten, with a tenth held out."""
    data = section(source)
    assert pipeline.info(data) == (54, classes)
    epoch = first(pipeline.make_train(data, seed=0, batch_size=9), 6)
    held_out = list(pipeline.make_eval(data, batch_size=3))
    seen, evaluated = np.concatenate(numbers(epoch)), np.concatenate(numbers(held_out))
    assert sorted([*seen, *evaluated]) == list(range(60)) and list(seen) != sorted(seen)
    for batch in epoch + held_out:
        assert batch["label"].tolist() == [number // 10 for number in numbers([batch])[0]]


def check_same_on_resume_and_by_two_processes(source, **changes):
    data = section(source, **changes)
    whole = first(pipeline.make_train(data, seed=3, batch_size=8), 15)
    continued = first(pipeline.make_train(data, seed=3, batch_size=8, start_step=8), 7)
    for one, other in zip(whole[8:], continued, strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)
    halves = [
        first(pipeline.make_train(data, seed=3, batch_size=8, process_index=index, process_count=2), 15)
        for index in range(2)
    ]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert np.array_equal(batch["image"], np.concatenate([part["image"] for part in parts]))
