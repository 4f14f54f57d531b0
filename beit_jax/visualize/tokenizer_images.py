"""The images that a tokenizer is shown with: those of a run's evaluation, or files that the user names."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from beit_jax import config as configs
from beit_jax import image_flags
from beit_jax.config.tokenizer_kinds import kind_of
from beit_jax.convert import opening
from beit_jax.errors import UserError
from beit_jax.experiment import Experiment
from beit_jax.tasks import create_task

BATCH_SIZE = 32


class TokenizerImages:
    """Batches of images float32 `[b, h, w, 3]` in the tokenizer's range, over which one can iterate again and again.

    Args:
      name: of the run or checkpoint of a tokenizer, or of a pre-training that reads one, as `from_pretrained` takes it.
      paths: of images and folders of images; empty: the run's evaluation images.

    Raises:
      UserError: the run does not say which images, or they are not there.
    """

    def __init__(self, name: str, paths: Sequence[str]):
        opened = opening.open_checkpoint(name)
        config = opened.config
        if not (paths or config.data.source):
            raise UserError(f"{name} does not say which images it was evaluated on; give some, such as --images FOLDER")
        config.mesh = configs.defaults(config.task, kind_of(config)).mesh  # not of as many devices as the run had
        config.batch_size = BATCH_SIZE
        experiment = Experiment(config, opened.folder, create_task(config))
        views = experiment.task.eval_spec(1)
        self._entry = "tokenizer_image" if "tokenizer_image" in views else "image"
        self._set = _open_files(experiment, paths) if paths else experiment.data.open_eval_set()

    def __len__(self) -> int:
        return self._set.num_examples

    def __iter__(self) -> Iterator[np.ndarray]:
        for batch in self._set:
            yield batch[self._entry][np.flatnonzero(batch["valid"])]


def _open_files(experiment: Experiment, paths: Sequence[str]) -> Any:
    from beit_jax.data import pipeline
    from beit_jax.data.decoding.unreadable import UnreadableImages

    files, data = image_flags.find(paths), experiment.data.config.data
    unreadable = UnreadableImages(data.max_bad_fraction)
    return pipeline.make_predict(data, files, batch_size=BATCH_SIZE, unreadable=unreadable)
