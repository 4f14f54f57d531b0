"""From a validated config to a run that is ready to start.

What the config alone cannot tell is checked here against the data's description, the devices and the shapes of
parameters, without reading an image or computing anything: a recipe whose last stage cannot work stops before its first
one starts.
"""

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from beit_jax import tasks
from beit_jax.data import pipeline, preprocessing
from beit_jax.data.fingerprint import fingerprint
from beit_jax.data.in_memory import Examples
from beit_jax.data.records.stored_tokens import StoredTokens
from beit_jax.data.sources.source import streams
from beit_jax.errors import UserError
from beit_jax.evals.features import Extractor
from beit_jax.evals.knn import Knn, LabelledSet
from beit_jax.tasks import Task, pretrain
from beit_jax.tasks.task import HostBatch, Params
from beit_jax.training import initialize, optimizer, sharding
from beit_jax.training.params import digest

Spec = tuple[tuple[int, ...], np.dtype]  # shape and type of a batch of one example


@dataclasses.dataclass(frozen=True)
class Steps:
    """Lengths in steps: of the run, of its warm-up, and of an epoch."""

    total: int
    warmup: int
    per_epoch: int


@dataclasses.dataclass(frozen=True)
class Run:
    """What the training loop is given, and `params`, the shapes of what it will learn."""

    config: ConfigDict
    folder: Path
    task: Task
    steps: Steps
    params: Params

    def stream(self, step: int, saved_by: int) -> Iterable[HostBatch]:
        """This process's training batches from a step on, at which so many processes saved the run."""
        config, now = self.config, jax.process_count()
        if self._features:
            return self._features[0].train(config.seed, step)
        if step % self.steps.per_epoch and not pipeline.same_batches(config.data, config.batch_size, saved_by, now):
            warnings.warn(
                f"{saved_by} processes came to step {step}, and {now} go on: with batch_size={config.batch_size} these "
                "split the data in different ways, and the rest of this epoch has examples that were seen in it",
                stacklevel=2,
            )
        start = dict(seed=config.seed, batch_size=config.batch_size, start_step=step, log=self.log)
        return pipeline.make_train(config.data, **start, **processes(), tokens=self._tokens())

    def _tokens(self) -> StoredTokens | None:
        """Those given, once they are known to be the tokenizer's own."""
        stored = stored_tokens(self.config)
        if stored:
            mesh = sharding.make_mesh(self.config.mesh)
            with jax.set_mesh(mesh):
                frozen = initialize.load_frozen(self.config, self.task, mesh, self.folder)
                stored.compare(tokenizer_key(frozen, mesh))
        return stored

    def eval_set(self) -> Iterable[HostBatch]:
        """This process's evaluation batches."""
        if self._features:
            return self._features[1]
        return pipeline.make_eval(self.config.data, batch_size=self.config.batch_size, log=self.log, **processes())

    @property
    def log(self) -> Path:
        """Where this process names unreadable images."""
        index = jax.process_index()
        return self.folder / (f"unreadable-{index}.txt" if index else "unreadable.txt")

    @functools.cached_property
    def _features(self) -> tuple[Examples, Examples] | None:
        """Of the images to train on and to evaluate on, where they are computed once."""
        config = self.config
        if not config.get("cache_features", False):
            return None
        mesh, data = sharding.make_mesh(config.mesh), config.data
        with jax.set_mesh(mesh):
            frozen = initialize.load_frozen(config, self.task, mesh, self.folder)
            extract = Extractor(self.task, mesh)
            once = dict(batch_size=config.batch_size, log=self.log) | processes()
            found = [
                extract({}, frozen, images, images.num_examples)
                for images in (pipeline.make_train_once(data, data.ops, **once), pipeline.make_eval(data, **once))
            ]
        columns = [dict(features=features, label=labels) for features, labels in found]
        return tuple(Examples(column, config.batch_size, **processes()) for column in columns)


def processes() -> dict[str, int]:
    """Which process of how many this is."""
    return dict(process_index=jax.process_index(), process_count=jax.process_count())


def prepare(config: ConfigDict, folder: Path, coming: Mapping[str, Params]) -> Run:
    """Makes a run ready.

    Args:
      config: of the run, validated.
      folder: of the run.
      coming: the shapes of the parameters of stages that have not run yet, `{"stage:NAME": shapes}`.

    Raises:
      UserError: data, ops, devices, steps or checkpoints that do not fit.
    """
    config = complete(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(mesh, config.batch_size, config.optimizer.accumulate)
    steps = _steps(config)
    optimizer.make(config.optimizer, steps.total, steps.warmup)
    task = tasks.create(config)
    for part in ("", "eval_"):
        check_rows(config, part)
    if stored := stored_tokens(config):
        stored.compare(stream_key(config, jax.process_count()))
        stored.check(steps.total)
    knn(config, task)
    return Run(config, folder, task, steps, initialize.check(config, task, folder, coming))


def knn(config: ConfigDict, task: Task) -> list[Knn]:
    """The evaluation by nearest neighbours that a config asks for, or none.

    Raises:
      UserError: there are no labels, or the ops do not fit.
    """
    section = config.get("knn", None)
    if section is None or not section.k:
        return []
    data = config.data.copy_and_resolve_references()
    data.eval_ops = section.ops or data.eval_ops
    info = pipeline.info(data)
    if info.num_classes < 2:
        raise UserError(f"knn.k={section.k}, but {data.source} has no labels; expected two classes or more, or knn.k=0")
    size = config.model.image_size
    wanted = {"image": ((1, size, size, 3), np.dtype("float32")), "label": ((1,), np.dtype("int32"))}
    for split in (data.split, data.eval_split):
        _compare(pipeline.spec(data, split, data.eval_ops), wanted, "knn.ops", "k-NN evaluation")
    once = dict(batch_size=config.batch_size) | processes()
    sets = (pipeline.make_train_once(data, data.eval_ops, **once), pipeline.make_eval(data, **once))
    train, test = (LabelledSet(images, images.num_examples) for images in sets)
    return [Knn(task, train, test, info.num_classes, section.k, section.temperature)]


def complete(config: ConfigDict) -> ConfigDict:
    """A copy of the config with what follows from its data and its place: number of classes, absolute paths.

    References to stages stay as they are: a recipe's folder can be moved.

    Raises:
      UserError: the data cannot be read, or has more classes than the model.
    """
    config = config.copy_and_resolve_references()
    for section in (config, config.get("tokenizer", {}), config.get("encoder", {})):
        source = section.get("init_from", "")
        if source and source != "random" and not source.startswith("stage:"):
            section.init_from = str(Path(source).absolute())
    if config.get("tokens", ""):
        config.tokens = str(Path(config.tokens).absolute())
    if "num_classes" in config.model:
        classes = pipeline.info(config.data).num_classes
        config.model.num_classes = config.model.num_classes or classes
        if not config.model.num_classes:
            raise UserError(
                f"{config.data.source} does not tell how many classes its label maps have; give "
                "model.num_classes, such as 150 for ADE20K"
            )
        if classes > config.model.num_classes:
            raise UserError(
                f"model.num_classes={config.model.num_classes}, but {config.data.source} has {classes} classes; "
                "0 takes their number"
            )
    return config


def stored_tokens(config: ConfigDict) -> StoredTokens | None:
    """The tokens that a config of pre-training names, or none."""
    if not config.get("tokens", ""):
        return None
    return StoredTokens(Path(config.tokens), pretrain.grid(config), config.batch_size)


def stream_key(config: ConfigDict, process_count: int) -> dict[str, Any]:
    """All that the tokens of a pre-training depend on, but the parameters of its tokenizer (see `tokenizer_key`).

    The ops count as a whole, also those of the other view, but for kinds and settings of masks. Versions of libraries
    do not: whether the images are the same is seen at each batch (`StoredTokens.reader`).
    """
    data = config.data
    names = ("split", "labels_per_class", "label_fraction", "subset_seed", "repeats", "shuffle_buffer")
    sizes = ("image_size", "vocab", "hidden", "groups", "blocks_per_group")
    return {
        "seed": config.seed,
        "batch_size": config.batch_size,
        **{f"data.{name}": data[name] for name in names},
        "data.ops": preprocessing.but_masks(data.ops),
        **{f"tokenizer.{name}": config.tokenizer[name] for name in sizes},
        "precision of the tokenizer": np.dtype(pretrain.tokenizer_of(config).dtype).name,
        "number of streams that the processes share": streams(config.batch_size, data.repeats, process_count),
        "files of data.source": fingerprint(data),
    }


def tokenizer_key(frozen: Mapping[str, Params], mesh: Mesh) -> dict[str, str]:
    """The part of the key that tells tokenizers apart, from what the task of pre-training does not learn."""
    whole = jax.jit(lambda params: params, out_shardings=sharding.replicated(mesh))(frozen["tokenizer"]["encoder"])
    return {"parameters of the tokenizer": digest(jax.device_get(whole))}


def _steps(config: ConfigDict) -> Steps:
    examples = pipeline.info(config.data).num_examples
    steps_per_epoch = examples // config.batch_size
    if not steps_per_epoch:
        raise UserError(
            f"{examples} training examples do not fill one batch of {config.batch_size}; lower batch_size, or take "
            "more labels"
        )
    total = config.steps or round(config.epochs * steps_per_epoch)
    if not total:
        raise UserError(f"epochs={config.epochs:g} and steps={config.steps}: give the length of the run in one of them")
    warmup = config.optimizer.warmup_steps or round(config.optimizer.warmup_epochs * steps_per_epoch)
    return Steps(total, warmup, steps_per_epoch)


def check_rows(config: ConfigDict, part: str) -> None:
    """Checks what the ops make against what the task takes.

    Args:
      config: of the run.
      part: "" for training, "eval_" for evaluation.

    Raises:
      UserError: something is missing, or of another shape or type; random ops where features are computed once.
    """
    data, name = config.data, f"data.{part}ops"
    task = tasks.create(config)
    if config.get("cache_features", False):
        if random_ops := preprocessing.random_ops(data[f"{part}ops"]):
            raise UserError(
                f"{name} draw random numbers in {random_ops[0]}, so that features differ between epochs; expected none "
                "with cache_features=True"
            )
        task = tasks.create(ConfigDict({**config, "cache_features": False}))  # the one that takes images
    if config.get("tokens", ""):
        task = tasks.create(ConfigDict({**config, "tokens": ""}))
    found = pipeline.spec(data, data[f"{part}split"], data[f"{part}ops"])
    specs = (task.eval_spec or task.batch_spec) if part else task.batch_spec
    wanted = {key: (spec.shape, spec.dtype) for key, spec in specs(1).items()}
    _compare(found, wanted, name, f"{task.name} task")


def _compare(found: Mapping[str, Spec], wanted: Mapping[str, Spec], ops: str, who: str) -> None:
    for name, (shape, dtype) in wanted.items():
        if name not in found:
            raise UserError(f"{ops} leave no {name!r}, which the {who} needs; found {', '.join(found)}")
        if found[name] != (shape, dtype):
            raise UserError(
                f"{ops} make {name!r} {_described(*found[name])}; the {who} expects {_described(shape, dtype)}: make "
                "the ops and the model's sizes agree"
            )


def _described(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{dtype}{list(shape[1:])}"
