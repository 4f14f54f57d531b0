"""Prepares an encoder for another task, number of classes or image size (official `run_class_finetuning.py`)."""

from ml_collections import ConfigDict

from beit_jax.config import defaults
from beit_jax.config.tokenizer_kinds import kind_of
from beit_jax.convert import preprocessing
from beit_jax.convert.layouts import task_layout
from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.models.image_size import ImageSize, in_words, sides


def config_for(
    config: ConfigDict, task: str, num_classes: int | None, image_size: ImageSize | None, channels: int | None = None
) -> ConfigDict:
    """The config of the changed model.

    Args:
      config: of the present model.
      task: of the changed model.
      num_classes: of a classifier; None: as before.
      image_size: side in pixels, or height and width; None: as before.
      channels: of the images; None: as before.

    Raises:
      UserError: the change is not possible.
    """
    possible = task_layout(config.task).converts_to
    if task not in possible:
        change = "change its classes or image size" if task == config.task else f"become one of {task!r}"
        expected = " or ".join(possible) or "no change"
        raise UserError(f"a model of the task {config.task!r} cannot {change}; expected {expected}")
    changed = defaults(task, kind_of(config))
    changed.model.update({key: value for key, value in config.model.items() if key in changed.model})
    size, (_, patch) = image_size or config.model.image_size, variants.parse(config.model.variant)
    if any(side < 1 or side % patch for side in sides(size)):
        raise UserError(f"image_size={in_words(size)} is not divisible by the patch size {patch}; choose a multiple")
    changed.model.image_size = size
    changed.data.update({name: config.data[name] for name in ("channels", "max_value")})
    changed.data.channels = channels or config.data.channels
    task_layout(task).retarget(changed, config, num_classes)
    with changed.unlocked():
        changed.preprocess = preprocessing.for_channels(
            preprocessing.at_size(config.preprocess, size), changed.data.channels
        )
    return changed


def optional_params(config: ConfigDict, changed: ConfigDict) -> tuple[str, ...]:
    """Regular expressions of the parameters in which the changed model differs from the present one."""
    if config.task != changed.task:
        return changed.init_optional
    same_classes = "num_classes" not in config.model or config.model.num_classes == changed.model.num_classes
    return () if same_classes else (r"^head/",)
