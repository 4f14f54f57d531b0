"""What a task is: one thing to learn, as pure functions over a tree of parameters."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from beit_jax.config.shared import TOKENS, VECTORS
from beit_jax.errors import UserError
from beit_jax.tasks.report import Report, Table
from beit_jax.typing import Batch, HostBatch, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True)
class FrozenPart:
    """Parameters that a task reads and does not learn, such as the tokenizer of the pre-training.

    Attributes:
      init: makes parameters from a key; their shapes are those expected of the checkpoint.
      source: the run or checkpoint to read them from; "random" keeps what `init` made.
      seed: of the key for "random".
      ignored: regular expressions of names that the checkpoint holds beside these parameters.
      grid: rows and columns of patches, for which positions of a checkpoint are interpolated; None: a square.

    Examples:
      >>> from beit_jax.tasks import FrozenPart
      >>> part = FrozenPart(lambda key: {"scale": jax.random.uniform(key, (3,))}, source="random")
      >>> part.init(jax.random.key(part.seed))["scale"].shape
      (3,)
    """

    init: Callable[[jax.Array], Params]
    source: str
    seed: int = 0
    ignored: Sequence[str] = ()
    grid: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One thing to learn.

    Subclasses define `init`, `loss`, `measure` and `train_spec`; the other methods have defaults. Functions of
    parameters are pure, and are traced by JAX.

    Attributes:
      config: of the run, valid and complete.

    Examples:
      >>> from beit_jax.config import defaults
      >>> from beit_jax.tasks import Task
      >>> from beit_jax.tasks.task import spec
      >>> class Brightness(Task):  # learns the mean of all pixels
      ...     def init(self, key):
      ...         return {"mean": jnp.float32(0)}
      ...
      ...     def train_spec(self, b):
      ...         return {"image": spec("float32", b, 8, 8, 3)}
      ...
      ...     def loss(self, params, frozen, batch, key, step):
      ...         errors = (batch["image"].mean((1, 2, 3)) - params["mean"]) ** 2
      ...         return {"loss": (errors.sum(), jnp.float32(errors.size))}, {}
      ...
      ...     def measure(self, params, frozen, batch):
      ...         errors = (batch["image"].mean((1, 2, 3)) - params["mean"]) ** 2
      ...         return {"error": (jnp.sum(errors * batch["valid"]), jnp.sum(batch["valid"]))}
      >>> task = Brightness(defaults("classify"))
      >>> batch = {"image": jnp.ones((2, 8, 8, 3)), "valid": jnp.array([True, False])}
      >>> task.summarize(task.measure(task.init(jax.random.key(0)), {}, batch))
      {'error': 1.0}
    """

    config: ConfigDict

    @functools.cached_property
    def model(self) -> nn.Module:
        """The network that is learned.

        Raises:
          UserError: the task defines none.
        """
        raise UserError(f"the task {self.config.task!r} defines no network; expected a task with a property `model`")

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters."""
        raise NotImplementedError

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """What a training step minimises.

        Args:
          params: the learned parameters.
          frozen: the frozen parameters by the name of their part, see `frozen_parts`.
          batch: as `train_spec` says.
          key: of this step.
          step: int32, counted from 0.

        Returns:
          Metrics, (sum, count) by name; the step minimises sum / count of `loss`. And new values of parameters that
          `without_gradient` names: a tree with only these, {} if there are none. Of several micro-batches, each gets
          the new values of the one before it.
        """
        raise NotImplementedError

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        """Sums over a batch of an evaluation, which are then added over all its batches.

        The batch holds what `eval_spec` names, and `valid`, bool `[b]`. Examples that are not valid must not count.
        """
        raise NotImplementedError

    def summarize(self, sums: dict[str, Any]) -> dict[str, float]:
        """Named numbers from the sums over an evaluation set, on the host; by default sum over count of each pair."""
        return means(sums)

    def tables(self, sums: Mapping[str, Any]) -> dict[str, Table]:
        """Tables by name from the sums over an evaluation set, such as the accuracy of each class, on the host."""
        return {}

    def probabilities(self, params: Params, frozen: Params, images: jax.Array) -> jax.Array:
        """The probability of each class, float32 `[b, c]`, for images `[b, h, w, 3]`."""
        raise NotImplementedError

    @property
    def classifies(self) -> bool:
        """Whether the task defines `probabilities`."""
        return type(self).probabilities is not Task.probabilities

    def train_spec(self, b: int) -> Spec:
        """Shapes and dtypes of what `loss` takes, for b examples."""
        raise NotImplementedError

    def eval_spec(self, b: int) -> Spec:
        """Shapes and dtypes of what `measure` takes, without `valid`."""
        return self.train_spec(b)

    def ops_spec(self, b: int) -> Spec:
        """What `data.ops` must make for training. It differs from `train_spec` if the step reads stored tokens."""
        return self.train_spec(b)

    def check_batch(self, batch: HostBatch) -> None:
        """Inspects the first training batch.

        Raises:
          UserError: the task cannot learn from its values.
        """

    @property
    def ignored_parameters(self) -> tuple[str, ...]:
        """Regular expressions of parameters in the checkpoints of other tasks that this task has no use for."""
        return ()

    @property
    def optional_parameters(self) -> tuple[str, ...]:
        """Regular expressions of parameters that a checkpoint may lack from which a run starts."""
        return ()

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """Regular expressions of parameters that have no gradient, such as running statistics and codebooks.

        The step does not differentiate by them, the optimizer has no state for them, and an average of the parameters
        has their own values. They change only if `loss` gives new ones.
        """
        return ()

    @property
    def no_decay(self) -> tuple[str, ...]:
        """Regular expressions of parameters without weight decay."""
        return VECTORS, TOKENS

    @property
    def class_parameters(self) -> tuple[str, ...]:
        """Regular expressions of parameters that have a row for each class; useless for a model of other classes."""
        return ()

    @property
    def frozen_parts(self) -> Mapping[str, FrozenPart]:
        """Parameters that are read and not learned, by name."""
        return {}

    def pictures(self, params: Params, frozen: Params, batch: Batch) -> dict[str, jax.Array]:
        """Pictures of an evaluation batch by name, `[b, h, w, 3]` in [0, 1]; entry i is of example i in all of them."""
        return {}

    def embed(self, params: Params, frozen: Params, images: jax.Array) -> jax.Array:
        """Features `[b, l, f]` of images `[b, h, w, 3]`, for the layers of `embedded_layers`."""
        raise NotImplementedError

    @property
    def embedded_layers(self) -> tuple[int, ...]:
        """The layers whose features `embed` returns, counted from 1. Empty if the task does not define `embed`."""
        return ()

    @property
    def evals(self) -> ConfigDict | None:
        """Settings of what is measured by the features of `embed` (`config.evals.evals_keys`); None: nothing."""
        return None

    @property
    def caches_features(self) -> bool:
        """Whether features of all images are computed once, and the training steps read them instead of images."""
        return False

    @property
    def stored_tokens(self) -> str:
        """The folder of tokens that training steps read instead of computing them; empty: there is none."""
        return ""

    @property
    def report(self) -> Report:
        """What a report shows of this task."""
        return Report(self.config.task)

    @property
    def integer_bounds(self) -> Mapping[str, int]:
        """For each integer entry of a batch, its largest value plus 1; used to make synthetic batches."""
        return {}

    def training_flops(self) -> int | None:
        """FLOPs of a training step for an example, counting matrix products of the model as written; None: not counted.

        A backward pass costs two forward passes, except that the layer that reads the images needs no gradient of its
        input. What is recomputed to save memory does not count.
        """
        return None


def means(sums: Mapping[str, Any]) -> dict[str, float]:
    """Sum over count of every pair."""
    return {name: float(total) / float(count) for name, (total, count) in sums.items()}


def spec(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    """Shape and dtype of one entry of a batch.

    Examples:
      >>> from beit_jax.tasks.task import spec
      >>> spec("float32", 8, 16, 16, 3)
      ShapeDtypeStruct(shape=(8, 16, 16, 3), dtype=float32)
    """
    return jax.ShapeDtypeStruct(shape, np.dtype(dtype))
