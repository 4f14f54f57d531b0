"""Configs: the keys that exist, their defaults, and the checks made before any device work.

A config file defines `get_config(arg="")` and starts from `defaults(task)`, so that a key exists in one place only. A
recipe (`recipe(...)`) is an ordered list of such configs.
"""

import ast
import importlib.util
import json
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from beit_jax.default_config import TASKS, defaults
from beit_jax.errors import UserError

__all__ = ["TASKS", "defaults"]  # so that config files import from one place

# Keys that may differ between a run and its continuation, because they change no number of the run.
FREE_KEYS = (
    *("log_every", "eval_every", "picture_every", "save_every", "keep", "keep_every", "mesh"),
    "tokens",  # those that would be computed
    *("max_bad_steps", "stall_factor"),  # of a run that ended with a loss that is not finite, or seems to hang
)


def recipe(**stages: ConfigDict) -> ConfigDict:
    """A config of several stages, run in the order given; each has its own folder under the workdir.

    A later stage names an earlier one by `init_from="stage:NAME"`. Stages called `NAME_seed0`, `NAME_seed1`, ... are
    shown as one group, with mean and deviation.

    Raises:
      UserError: there is no stage.
    """
    if not stages:
        raise UserError("found a recipe without stages, expected at least one; does it run over seeds=0?")
    return ConfigDict(dict(stages=tuple(stages), **stages)).lock()


def load(path: str) -> ConfigDict:
    """The config of `FILE[:args]`.

    Raises:
      UserError: the file is missing, defines no `get_config`, refuses its arguments, or fails.
    """
    file, _, arg = path.partition(":")
    get_config = config_module(file).get_config
    try:
        config = get_config(arg)
    except Exception as error:
        raise _error_in(file, error) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: get_config returned {type(config).__name__}; expected an ml_collections.ConfigDict")
    return config


def config_module(file: str) -> ModuleType:
    """The config file as a module, whether or not it lies in a package."""
    path = Path(file)
    if not path.is_file():
        raise UserError(f"config {file!r} does not exist; expected a file such as configs/quickstart.py")
    spec = importlib.util.spec_from_file_location(f"beit_jax_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _error_in(file, error) from error
    if not hasattr(module, "get_config"):
        raise UserError(f'config {file!r} defines no get_config; expected `def get_config(arg="")`')
    return module


def _error_in(file: str, error: Exception) -> UserError:
    """An error that running a config file raised, in one line that says where."""
    if isinstance(error, UserError):
        return error
    here, frames = Path(file).absolute(), traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == here]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 0
    reason = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return UserError(f"config {file}:{line}: {type(error).__name__}: {reason}")


def parse_arg(arg: str, **known: Any) -> ConfigDict:
    """Reads `name=value,flag` into the types of the defaults given: `parse_arg(arg, variant="B/16", runlocal=False)`.

    Raises:
      UserError: an unknown name, or a value of another type.
    """
    values = dict(known)
    for item in filter(None, (arg or "").split(",")):
        name, given, text = item.partition("=")
        if name not in known:
            raise UserError(f"config argument {name!r} is unknown; expected one of {', '.join(known)}")
        values[name] = _convert(name, text, known[name]) if given else True
        if not given and not isinstance(known[name], bool):
            raise UserError(f"config argument {name!r} has no value; expected {name}={known[name]}")
    return ConfigDict(values)


def _convert(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
    except (ValueError, SyntaxError):
        value = None
    if type(value) is not type(default):
        raise UserError(f"config argument {name}={text!r} is no {type(default).__name__}; its default is {default!r}")
    return value


def to_json(config: ConfigDict) -> str:
    """Stable text of a config, for the run's folder and for comparison."""
    return json.dumps(config.to_dict(), indent=1, sort_keys=True)


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`."""
    return ConfigDict(_tuples(json.loads(text))).lock()


def _tuples(value: Any) -> Any:
    """JSON knows lists only; configs hold tuples only, since ml_collections can override these."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def stage_of(config: ConfigDict, stage: str) -> ConfigDict:
    """One stage of a recipe, or a config without stages.

    Raises:
      UserError: the stage is none of it, or none is given for a recipe.
    """
    names = config.get("stages", ())
    if stage not in (names or ("",)):
        expected = f"--stage to name one of {', '.join(names)}" if names else "no --stage for a config without stages"
        raise UserError(f"found --stage={stage}, expected {expected}")
    return config[stage] if stage else config


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """`{"optimizer.lr": 1e-3, ...}`."""
    flat = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {f"{prefix}{key}": value}
    return flat


def is_free(key: str, stages: Sequence[str]) -> bool:
    """Whether a flattened key, with or without the name of a stage before it, may differ in a continuation."""
    first, _, rest = key.partition(".")
    return (rest if first in stages else key).partition(".")[0] in FREE_KEYS


def split_of(source: str) -> str:
    """The usual name of the evaluation split of a data source."""
    return "test" if source in ("digits", "cifar10", "cifar100") else "validation"
