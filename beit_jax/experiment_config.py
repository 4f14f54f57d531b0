"""The config of a run with what its data tell: the number and the names of the classes."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from beit_jax.config import class_names, fill_in_sizes
from beit_jax.config.schema import declared_keys
from beit_jax.config.serialization import flatten
from beit_jax.errors import UserError
from beit_jax.runtime.paths import as_path


def complete(
    config: ConfigDict, *, to_train: bool = True, order: Sequence[str] = (), advice: str = class_names.BY_NUMBER
) -> ConfigDict:
    """A copy of the config with the number and the names of the classes, from the data, and with absolute paths.

    References to stages stay as they are: a recipe's folder can be moved.

    Args:
      config: valid.
      to_train: whether the classes are those of `data.split`, or else of `data.eval_split`, the only one needed then.
      order: see `class_names.fill_in`.
      advice: what else can be done about classes of other names, for the message.

    Raises:
      UserError: the data cannot be read, or have other classes than the model or than `eval_classes`.
    """
    from beit_jax.data import label_counts, pipeline

    config = config.copy_and_resolve_references()
    for name, path in flatten(config).items():
        if declared_keys(config)[name].is_path and path and path != "random" and not path.startswith("stage:"):
            config.update_from_flattened_dict({name: str(as_path(path).absolute())})
    if not to_train and "attention" in config.get("model", {}):
        config.model.attention = "auto"  # a run's own is for the devices on which it was trained
    if "num_classes" in config.get("model", {}):
        splits = (config.data.split, config.data.eval_split) if to_train else (config.data.eval_split,)
        number, names = pipeline.classes(config.data, splits[0])
        if not number and not config.model.num_classes:
            number = label_counts.count_classes(fill_in_sizes(config).data, splits)
        class_names.fill_in(config, number, names, to_train=to_train, order=order, advice=advice)
    if given := config.get("eval_classes", 0):
        data, known = config.data, pipeline.classes(config.data, config.data.eval_split).number
        if known not in (0, given):
            raise UserError(
                f"eval_classes={given}, but {data.source} has {known} classes in {data.eval_split}; expected "
                f"eval_classes={known}, or 0 to leave out TCAS"
            )
    return config
