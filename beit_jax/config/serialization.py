"""Configs as text, for the run's folder and for comparison."""

import json
from typing import Any

from ml_collections import ConfigDict


def to_json(config: ConfigDict) -> str:
    """Stable text of a config."""
    return json.dumps(config.to_dict(), indent=1, sort_keys=True)


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`.

    Raises:
      ValueError: the text is no JSON, or no object, or nested too deep.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"found {type(values).__name__}, expected an object")
        return ConfigDict(_tuples(values), type_safe=False).lock()
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _tuples(value: Any) -> Any:
    """JSON has only lists; configs have only tuples, because ml_collections can override tuples."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """`{"optimizer.lr": 1e-3, ...}`.

    Examples:
      >>> from beit_jax.config import defaults, flatten
      >>> flatten(defaults("classify"))["optimizer.betas"]
      (0.9, 0.999)
    """
    flat = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {f"{prefix}{key}": value}
    return flat
