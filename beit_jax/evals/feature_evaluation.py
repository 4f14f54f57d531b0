"""What the features of an encoder tell at each evaluation: one pass over the images serves all kinds."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from jax.sharding import Mesh

from beit_jax.errors import UserError
from beit_jax.evals import knn, probe, rankme
from beit_jax.evals.features import Extractor, Features
from beit_jax.tasks.report import Curve, Headline
from beit_jax.tasks.task import Task
from beit_jax.typing import HostBatch, Params

# What a report shows of them.
METRICS = knn.METRICS | probe.METRICS | rankme.METRICS
CURVES = (
    Curve("", "eval/knn_top1", "top-1 accuracy of nearest neighbours"),
    Curve("", "eval/probe_top1", "top-1 accuracy of logistic regression on features"),
    Curve("", "eval/rankme", "RankMe of the last layer, dimensions"),
)
HEADLINES = (
    Headline("knn_top1", "nearest neighbours, best layer, top-1, %", 100),
    Headline("knn_best_layer", "that layer", form="{:.0f}", averaged=False),
    Headline("probe_top1", "logistic regression, best layer, top-1, %", 100),
    Headline("probe_best_layer", "that layer", form="{:.0f}", averaged=False),
    Headline("rankme", "RankMe of the last layer"),
)


class ImageSet(NamedTuple):
    """Batches of `image`, `label`, `valid` and `index`, which can be iterated repeatedly, and the number of images."""

    batches: Iterable[HostBatch]
    images: int


class Kind(Protocol):
    """Numbers by name, of the features of training images and, where it has classes, of those of evaluation images."""

    def __call__(self, mesh: Mesh, train: Features, test: Features | None) -> dict[str, float]: ...


class FeatureEvaluation:
    """Measures the encoder of one run.

    Args:
      task: with `embed`.
      kinds: what is measured.
      train: training images.
      test: evaluation images; None where no kind needs them.
    """

    def __init__(self, task: Task, kinds: Sequence[Kind], train: ImageSet, test: ImageSet | None = None):
        self._task, self._kinds, self._sets = task, kinds, [train] if test is None else [train, test]
        self._extractor = functools.cache(lambda mesh: Extractor(task, mesh))
        self._metrics: dict[str, float] = {}

    def __call__(
        self,
        mesh: Mesh,
        params: Params,
        frozen: Params,
        wrap: Callable[[Iterable[HostBatch]], Iterable[HostBatch]] = lambda batches: batches,
    ) -> dict[str, float]:
        """The numbers of all kinds.

        Args:
          mesh: of the devices.
          params: of the task.
          frozen: of the task.
          wrap: what the batches are passed through, such as a check for preemption.
        """
        if self._metrics and "encoder" in self._task.frozen_parts:
            return self._metrics  # the encoder does not learn
        extract = self._extractor(mesh)
        found = [extract(params, frozen, wrap(images.batches), images.images) for images in self._sets]
        train, test = found if len(found) == 2 else (*found, None)
        if test is not None and not all(len(part.labelled().labels) for part in found):
            raise UserError("no image of the training split, or of the evaluation split, has a label for evals.kinds")
        self._metrics = {name: value for kind in self._kinds for name, value in kind(mesh, train, test).items()}
        return self._metrics
