"""Small models with random weights, as `from_pretrained` returns them."""

import functools

import jax
from beit_references import random_parameters

import beit_jax
from beit_jax import config as configs
from beit_jax.convert.layouts import task_layout
from beit_jax.convert.pretrained import Pretrained
from beit_jax.tasks import create_task

POSITIONS = {"absolute": ("none", True), "shared": ("shared", False), "per_block": ("per_block", False)}


def config(task, variant="Micro/4", positions="per_block", pooling="mean", size=16, classes=11):
    """A config of the task, of any size."""
    made = configs.defaults(task)
    if task == "tokenizer":
        made.model.update(dict(image_size=16, vocab=24, hidden=8, decoder_init=6))
        return with_preprocess(made, 16)
    relative, absolute = POSITIONS[positions]
    made.model.update(dict(variant=variant, image_size=size, relative_position=relative, absolute_positions=absolute))
    if task == "segment":
        made.model.update(dict(num_classes=classes, channels=24, layers=(0, 0, 1, 1), auxiliary_channels=8))
    elif task == "pretrain":
        made.tokenizer.vocab = classes
    elif task == "classify":
        made.model.update(dict(num_classes=classes, pooling=pooling))
    return with_preprocess(made, size)


def with_preprocess(made, size):
    with made.unlocked():
        made.preprocess = task_layout(made.task).default_preprocess(size)
    return made


def pretrained(*args, **kwargs):
    """The model of such a config with random weights; the arrays are shared between tests."""
    made = config(*args, **kwargs)
    return Pretrained(create_task(made).model, _params(*args, **kwargs), made)


@functools.cache
def _params(*args, **kwargs):
    params = random_parameters(jax.eval_shape(create_task(config(*args, **kwargs)).init, jax.random.key(0)))
    for leaf in jax.tree.leaves(params):
        leaf.flags.writeable = False
    return params


def written(folder, task="classify", format="hf", **more):
    """Saves a model; the bytes of its files by their names."""
    _, params, config = pretrained(task)
    beit_jax.save_pretrained(folder, params, config, format=format, **more)
    return {path.name: path.read_bytes() for path in folder.iterdir()}
