"""Tasks: one file for each thing to learn."""

from collections.abc import Callable

from ml_collections import ConfigDict

from beit_jax.config import schema
from beit_jax.config.keys import Keys
from beit_jax.tasks.classify import Classify
from beit_jax.tasks.pretrain import Pretrain
from beit_jax.tasks.pretrain_features import PretrainFeatures
from beit_jax.tasks.pretrain_pixels import PretrainPixels
from beit_jax.tasks.probe import Probe
from beit_jax.tasks.report import Curve, Headline, Report, Table
from beit_jax.tasks.segment import Segment
from beit_jax.tasks.task import FrozenPart, Task
from beit_jax.tasks.tokenizer import TrainTokenizer
from beit_jax.tasks.tokenizer_kinds import create_tokenizer, register_tokenizer

__all__ = [
    "Curve",
    "FrozenPart",
    "Headline",
    "Report",
    "Table",
    "Task",
    "create_task",
    "create_tokenizer",
    "register_task",
    "register_tokenizer",
]

_TASKS: dict[str, type[Task]] = {
    "tokenizer": TrainTokenizer,
    "pretrain": Pretrain,
    "pretrain_pixels": PretrainPixels,
    "pretrain_features": PretrainFeatures,
    "classify": Classify,
    "probe": Probe,
    "segment": Segment,
}


def create_task(config: ConfigDict) -> Task:
    """The task that a valid config names.

    Raises:
      UserError: the task is unknown.

    Examples:
      >>> from beit_jax.tasks import create_task
      >>> task = create_task(beit_jax.from_pretrained("runs/finetune").config)
      >>> task.train_spec(8)["image"].shape
      (8, 16, 16, 3)
    """
    schema.TASKS.find(config.task)
    return _TASKS[config.task](config)


def register_task(
    name: str, *, keys: Keys | None = None, check: Callable[[ConfigDict], None] = lambda config: None
) -> Callable[[type[Task]], type[Task]]:
    """A decorator that makes a task of a file of your own known to configs.

    Args:
      name: of the task, `config.task`.
      keys: beside those of every task; a section that both have is joined.
      check: raises a UserError for values that do not go together.

    Examples:
      >>> from beit_jax.config import Key, defaults
      >>> from beit_jax.tasks import Task, register_task
      >>> @register_task("brightness", keys=dict(levels=Key(256, "levels of a pixel", at_least=2)))
      ... class Brightness(Task):
      ...     pass
      >>> config = defaults("brightness")
      >>> config.levels, config.optimizer.lr
      (256, 0.0015)
    """

    def add(task: type[Task]) -> type[Task]:
        schema.TASKS.register(name, schema.Schema(keys or {}, check))
        _TASKS[name] = task
        return task

    return add
