"""The same encoder for another task, number of classes or image size (official `run_class_finetuning.py`)."""

from ml_collections import ConfigDict

from beit_jax.config import defaults
from beit_jax.convert import preprocessing
from beit_jax.errors import UserError
from beit_jax.models import variants


def config_for(config: ConfigDict, task: str, num_classes: int | None, image_size: int | None) -> ConfigDict:
    """The config of the changed model.

    Args:
      config: of the model there is.
      task: what it becomes, "pretrain" or "classify".
      num_classes: of a classifier; None: as before.
      image_size: side in pixels; None: as before.

    Raises:
      UserError: a change that is none of these.
    """
    if (config.task, task) not in (("pretrain", "pretrain"), ("pretrain", "classify"), ("classify", "classify")):
        raise UserError(
            f"a model of the task {config.task!r} cannot become one of {task!r}; expected pretrain to classify"
        )
    if task == "pretrain" and num_classes is not None:
        raise UserError("num_classes is given, but the model is no classifier: give task='classify' too")
    changed = defaults(task)
    changed.model.update({key: value for key, value in config.model.items() if key in changed.model})
    size, (_, patch) = image_size or config.model.image_size, variants.parse(config.model.variant)
    if size < 1 or size % patch:
        raise UserError(f"image_size={size} is not divisible by the patch size {patch}; choose a multiple")
    changed.model.image_size = size
    if task == "pretrain":
        changed.tokenizer.update(config.tokenizer)
        changed.tokenizer.image_size = size // patch * 2 ** (changed.tokenizer.groups - 1)
        changed.num_masked = preprocessing.usual_masked(size // patch)
    else:
        _classify(changed, config, num_classes)
    same = config.preprocess
    resize = preprocessing.official(size).resize if same.keep_ratio else round(size * same.resize / same.size)
    with changed.unlocked():
        changed.preprocess = ConfigDict({**same, "size": size, "resize": resize})
    return changed


def _classify(changed: ConfigDict, config: ConfigDict, num_classes: int | None) -> None:
    changed.model.num_classes = num_classes or config.model.get("num_classes", 0)
    if changed.model.num_classes < 1:
        raise UserError("the checkpoint has no classifier: give num_classes")
    if changed.model.relative_position == "shared" and config.task == "pretrain":
        changed.model.relative_position = "per_block"
    if changed.model.num_classes == config.model.get("num_classes", 0):
        changed.labels = config.labels


def fresh_and_dropped(config: ConfigDict, changed: ConfigDict) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Regular expressions of the parameters of the changed model that start anew, and of those not taken over."""
    if config.task != changed.task:
        return changed.init_fresh, changed.init_drop
    if config.task == "classify" and config.model.num_classes != changed.model.num_classes:
        return (r"^head/",), ()
    return (), ()
