"""The data of a run: batches, features kept in memory, stored tokens, evaluations, and the checks of `data.ops`.

TensorFlow is imported only when one of them is needed.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from beit_jax.config import class_names
from beit_jax.config.serialization import flatten
from beit_jax.errors import UserError
from beit_jax.evals.feature_evaluation import FeatureEvaluation
from beit_jax.evals.features import Extractor
from beit_jax.experiment_evaluations import open_evaluations
from beit_jax.experiment_splits import check_disjoint
from beit_jax.runtime.paths import as_path
from beit_jax.tasks.compare_specs import compare_specs
from beit_jax.tasks.task import Task
from beit_jax.training import sharding
from beit_jax.training.params import digest
from beit_jax.typing import HostBatch, Params


@dataclasses.dataclass(frozen=True, eq=False)
class ExperimentData:
    """The data of one run.

    Attributes:
      config: of the run, complete, with numbers for the names of sizes in its ops.
      folder: of the run.
      task: what is learned.
      mesh: the devices.
      load_frozen: returns the parameters that the task reads and does not learn; called only if they are needed.
    """

    config: ConfigDict
    folder: Path
    task: Task
    mesh: Mesh
    load_frozen: Callable[[], dict[str, Params]]

    def check(self, total_steps: int) -> None:
        """Checks what can be checked without decoding an image; of label maps some are read, of files a header.

        Raises:
          UserError: ops, stored tokens or evaluations do not fit the task or the length of the run.
        """
        self.check_ops("")
        self.check_ops("eval_")
        self._check_channels()
        check_disjoint(
            self.config.data,
            "so that the run would be scored on images that it learns; beit_jax.evaluate scores a run on any split",
        )
        if self.stored_tokens:
            self.stored_tokens.check_key(self.stream_key(jax.process_count()))
            self.stored_tokens.check_length(total_steps)
        _ = self.label_counts, self.evaluations  # raise where they do not fit

    def _check_channels(self) -> None:
        from beit_jax.data.check_channels import check_channels

        check_channels(self.config.data)

    @functools.cached_property
    def num_examples(self) -> int:
        """Examples to train on, over all processes."""
        from beit_jax.data import pipeline

        return pipeline.info(self.config.data).num_examples

    @property
    def num_eval_examples(self) -> int:
        """Examples to evaluate on, over all processes."""
        from beit_jax.data import pipeline

        return pipeline.count(self.config.data, self.config.data.eval_split)

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Training examples divided by the batch size, rounded down.

        Raises:
          UserError: the examples do not fill a batch.
        """
        examples, batch_size = self.num_examples, self.config.batch_size
        if examples < batch_size:
            raise UserError(
                f"{examples} training examples do not fill one batch of {batch_size}; lower batch_size, or take more "
                "labels"
            )
        return examples // batch_size

    def train_batches(self, step: int, saved_by: int) -> Iterable[HostBatch]:
        """This process's training batches, from `step` on; `saved_by` is how many processes saved the run there."""
        from beit_jax.data import pipeline

        config, processes = self.config, jax.process_count()
        if self._features:
            return self._features[0].train(config.seed, step)
        if step % self.steps_per_epoch and not pipeline.same_batches(
            config.data, config.batch_size, saved_by, processes
        ):
            warnings.warn(
                f"{saved_by} processes trained up to step {step}, and {processes} continue: with "
                f"batch_size={config.batch_size} these split the data in different ways, and the rest of this epoch "
                "repeats some of its examples",
                stacklevel=2,
            )
        start = dict(seed=config.seed, batch_size=config.batch_size, start_step=step, log=self.unreadable_log)
        if self.stored_tokens:
            self.stored_tokens.check_key(self.tokenizer_key())
        start |= dict(tokens=self.stored_tokens, num_classes=self._num_classes)
        start |= dict(classes=self._classes(config.data.split))
        return pipeline.make_train(config.data, **start, **this_process())

    @functools.cached_property
    def eval_batches(self) -> Iterable[HostBatch]:
        """This process's evaluation batches; can be iterated again and again."""
        return self._features[1] if self._features else self.open_eval_set(self.unreadable_log)

    def open_eval_set(self, log: Path | None = None) -> Iterable[HostBatch]:
        """As `eval_batches`, but images also if features are kept in memory; `log` names unreadable images."""
        from beit_jax.data import pipeline

        settings = dict(batch_size=self.config.batch_size, num_classes=self._num_classes, log=log)
        settings |= dict(classes=self._classes(self.config.data.eval_split))
        return pipeline.make_eval(self.config.data, **settings, **this_process())

    def _classes(self, split: str, known: Sequence[str] | None = None) -> Any:
        """The numbers of the classes of a split: those of the same names in `known`, or in the config."""
        from beit_jax.data import pipeline
        from beit_jax.data.sources.renumbered import OWN_CLASSES, ModelClasses

        known = self.config.get("labels", ()) if known is None else known
        names = pipeline.classes(self.config.data, split).names if known else ()
        numbers = class_names.numbers_of(known, names, self.config.data.source, "give them the same names")
        own = numbers == tuple(range(len(known)))
        return OWN_CLASSES if own else ModelClasses(numbers, len(known))

    @property
    def unreadable_log(self) -> Path:
        """The file in which this process names unreadable images."""
        index = jax.process_index()
        return self.folder / (f"unreadable-{index}.txt" if index else "unreadable.txt")

    @functools.cached_property
    def _features(self) -> tuple[Any, Any] | None:
        """Features of the training and of the evaluation images in memory, where the config asks for it."""
        from beit_jax.data import pipeline
        from beit_jax.data.in_memory import Examples

        config = self.config
        if not self.task.caches_features:
            return None
        once = dict(batch_size=config.batch_size, log=self.unreadable_log) | this_process()
        sets = (
            pipeline.make_train_once(
                config.data, config.data.ops, seed=config.seed, **once, classes=self._classes(config.data.split)
            ),
            self.open_eval_set(self.unreadable_log),
        )
        with jax.set_mesh(self.mesh):
            extract = Extractor(self.task, self.mesh)
            pairs = [extract({}, self.load_frozen(), images, images.num_examples) for images in sets]
        columns = [dict(features=features, label=labels) for features, labels in pairs]
        return tuple(Examples(column, config.batch_size, **this_process()) for column in columns)

    def check_ops(self, part: str) -> None:
        """Compares what the ops make with what the task takes.

        Args:
          part: "" for training, "eval_" for evaluation.

        Raises:
          UserError: something is missing, or of another shape or type; random ops where features are computed once.
        """
        from beit_jax.data import pipeline, preprocessing

        data, name = self.config.data, f"data.{part}ops"
        ops = data[f"{part}ops"]
        if self.task.caches_features and (random_ops := preprocessing.random_ops(ops)):
            raise UserError(
                f"{name} draw random numbers in {random_ops[0]}, so that features differ between epochs; expected none "
                "with cache_features=True"
            )
        wanted = self.task.eval_spec(1) if part else self.task.ops_spec(1)
        compare_specs(pipeline.spec(data, data[f"{part}split"], ops), wanted, name, f"{self.config.task} task")

    # Label maps.

    @property
    def _num_classes(self) -> int:
        """Classes of label maps; 0 where there are none."""
        return self.config.model.num_classes if "label_map" in self.task.eval_spec(1) else 0

    @functools.cached_property
    def label_counts(self) -> tuple[Any, ...]:
        """The labels of the splits to train and to evaluate on, `data.label_counts.LabelCounts`; () without label maps.

        Raises:
          UserError: they do not fit the model.
        """
        from beit_jax.data import label_counts

        if not self._num_classes:
            return ()
        return label_counts.check_run(self.config.data, self._num_classes, self.config.inference.label_side)

    @functools.cached_property
    def evaluations(self) -> list[FeatureEvaluation]:
        """What is measured besides the task's own numbers: see `experiment_evaluations.open_evaluations`."""
        return open_evaluations(self.config, self.task, self._classes, this_process())

    # Stored tokens.

    @functools.cached_property
    def stored_tokens(self) -> Any | None:
        """The tokens that a config of pre-training names, `data.records.stored_tokens.StoredTokens`, or none."""
        from beit_jax.data.records.stored_tokens import StoredTokens

        if not self.task.stored_tokens:
            return None
        return StoredTokens(as_path(self.task.stored_tokens), self.task.grid, self.config.batch_size)

    def stream_key(self, process_count: int) -> dict[str, Any]:
        """Everything that stored tokens depend on, except the parameters of the tokenizer (see `tokenizer_key`).

        The key has the ops of both views; every mask op is only the word `mask`, because tokens do not depend on masks.
        It has no versions of libraries: `StoredTokens.reader` checks at each batch that the images are the same.
        """
        from beit_jax.data import preprocessing
        from beit_jax.data.fingerprint import fingerprint
        from beit_jax.data.sources.source import count_streams

        config, data = self.config, self.config.data
        tokenizer = {name: value for name, value in flatten(config.tokenizer).items() if name != "init_from"}
        return {
            "seed": config.seed,
            "batch_size": config.batch_size,
            **{f"data.{name}": data[name] for name in ("split", "labels", "repeats", "shuffle_buffer")},
            "data.ops": preprocessing.pixel_ops(data.ops),
            **{f"tokenizer.{name}": value for name, value in tokenizer.items()},
            "image size of the tokenizer": self.task.tokenizer.image_size,
            "precision of the tokenizer": np.dtype(self.task.tokenizer.dtype).name,
            "number of streams that the processes share": count_streams(config.batch_size, data.repeats, process_count),
            "files of data.source": fingerprint(data),
        }

    def tokenizer_key(self) -> dict[str, str]:
        """The part of the key that identifies the tokenizer: a hash of its parameters."""
        replicate = jax.jit(lambda params: params, out_shardings=sharding.replicated(self.mesh))
        params = replicate(self.task.tokenizer.encoder_params(self.load_frozen()["tokenizer"]))
        return {"parameters of the tokenizer": digest(jax.device_get(params))}


def this_process() -> dict[str, int]:
    """Which process of how many this is."""
    return dict(process_index=jax.process_index(), process_count=jax.process_count())
