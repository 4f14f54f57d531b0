"""Configs of tasks small enough to run anywhere in a second, and experiments without data."""

from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax import tasks
from beit_jax.experiment import Experiment, Lengths
from beit_jax.experiment_teacher import fit_tokenizer_to_teacher
from beit_jax.tasks import Task
from beit_jax.training import sharding

TOKENIZERS = ("vqkd", "kmeans", "kmeans_features", "random_projection")  # beside the dVAE, that of the task
DVAE = dict(vocab=16, hidden=8, groups=2, blocks_per_group=1, decoder_init=8)


def config(task: str) -> ConfigDict:
    """A valid config of the task, or of a kind of tokenizer: 8 images a batch, 10 steps, 2 of them warm-up."""
    made = configs.defaults("tokenizer", task) if task in TOKENIZERS else configs.defaults(task)
    made.batch_size, made.steps = 8, 10
    made.data.ops = made.data.eval_ops = "decode"
    made.optimizer.update(dict(lr=1e-2, min_lr=1e-3, warmup="2 steps", clip_norm=1.0))
    if task == "tokenizer":
        made.model.update(DVAE | dict(image_size=8))
        return made
    if task in TOKENIZERS:
        sizes = dict(variant="Micro/4", decoder_depth=1) if task == "vqkd" else dict(patch=4)
        made.model.update(dict(image_size=16, vocab=16, **sizes))
        if "teacher" in made:
            made.teacher.update(dict(kind="encoder", variant="Micro/4", image_size=16))
        return fit_tokenizer_to_teacher(made)
    made.model.update(dict(variant="Micro/4", image_size=16, drop_path=0.1))
    if task == "pretrain":
        made.tokenizer.update(DVAE | dict(init_from="random"))
        made.num_masked = 12
    elif task == "pretrain_pixels":
        made.num_masked = 12
    elif task == "pretrain_features":
        made.num_masked = 12
        made.target.update(dict(source="average", layers=2, decay=0.9))
    elif task == "segment":
        made.model.update(dict(head="setr_pup", num_classes=4, channels=8, layers=(1,)))
        made.inference.update(dict(short_side=24, long_side=24, label_side=24))
    elif task == "probe":
        made.model.num_classes, made.encoder.init_from = 10, "random"
    else:
        made.model.num_classes = 10
        made.optimizer.layer_decay = 0.7
    return made


def one_device() -> Mesh:
    """A mesh of the first device."""
    return sharding.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])


def experiment(config: ConfigDict, mesh: Mesh | None = None, task: Task | None = None) -> Experiment:
    """The experiment of a config, without data, on a mesh (the config's own if None): 10 steps, 2 of them warm-up."""
    made = Experiment(config, Path("unused"), task or tasks.create_task(config), Lengths(10, 2, 0, 10))
    if mesh is not None:
        vars(made)["mesh"] = mesh  # in place of what the cached property would make of all devices
    return made
