"""Config files: Python modules that define `get_config(arg="")`."""

import ast
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config import shipped
from beit_jax.config.keys import is_finite
from beit_jax.config.serialization import from_json
from beit_jax.errors import Mistakes, UserError, did_you_mean
from beit_jax.runtime.paths import as_path
from beit_jax.runtime.urls import is_url


def load(path: str) -> ConfigDict:
    """The config of `FILE[:args]`, or of the `config.json` of a run.

    A file that does not exist is looked for among the configs that come with the library: `configs/quickstart.py` and
    `quickstart` name the same one everywhere.

    Raises:
      UserError: the file is missing, defines no `get_config`, refuses its arguments, or fails; or it is no config.

    Examples:
      >>> from beit_jax.config import load
      >>> load("quickstart:seeds=1").stages
      ('tokenizer', 'pretrain', 'from_beit_seed0', 'from_scratch_seed0')
    """
    file, arg = split_arg(path)
    if file.endswith(".json"):
        return _load_json(file, arg)
    module = python_file(file)
    if not hasattr(module, "get_config"):
        raise UserError(f'config {file!r} defines no get_config; expected `def get_config(arg="")`')
    try:
        config = module.get_config(arg)
    except Exception as error:
        raise _error_in(file, error) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: get_config returned {type(config).__name__}; expected an ml_collections.ConfigDict")
    return config


def split_arg(path: str) -> tuple[str, str]:
    """The file and the argument of `FILE[:args]`; the colon of a bucket or a Windows drive is part of the file."""
    drive = re.match(r"[A-Za-z]:[\\/]|\w+://", path)
    start = drive.end() if drive else 0
    file, _, arg = path[start:].partition(":")
    return path[:start] + file, arg


def _load_json(file: str, arg: str) -> ConfigDict:
    if arg:
        raise UserError(f"config {file} takes no arguments, found {arg!r}; set its keys with --config.KEY=VALUE")
    try:
        config = from_json(as_path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"config {file} cannot be read ({error}); expected the config.json of a run") from error
    if "task" not in config and "stages" not in config:
        raise UserError(f"config {file} is not that of a run: it has neither `task` nor `stages`")
    return config


def python_file(file: str | Path, kind: str = "config") -> ModuleType:
    """A Python file as a module, whether or not it lies in a package: a config, or a task or tokenizer of your own.

    Args:
      file: its path.
      kind: what the file is, for messages.

    Raises:
      UserError: the file is missing, or fails.

    Examples:
      >>> from beit_jax.config import python_file
      >>> quickstart = python_file("configs/quickstart.py")
      >>> quickstart.tokenizer().model.vocab
      32
    """
    if is_url(file):
        raise UserError(
            f"{kind} {file} would be run from a URL; expected a file here, or the config.json of a run: copy it "
            f"here, such as with gcloud storage cp {file} ."
        )
    path = Path(file).expanduser()
    if not path.is_file() and kind == "config":
        path = shipped.find(str(file)) or path
    if not path.is_file():
        raise UserError(f"{kind} {str(file)!r} does not exist; {_expected(str(file), kind)}")
    name = f"beit_jax_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _error_in(str(file), error, kind) from error
    return module


def _expected(file: str, kind: str) -> str:
    """What to give in place of a file that does not exist."""
    if kind != "config":
        return "expected a file such as my_task.py"
    if with_arguments := re.fullmatch(r"(.+\.py)[ ,](\w.*)", file):
        return f"arguments follow a colon: {with_arguments[1]}:{with_arguments[2]}..."
    near = did_you_mean(Path(file).stem, shipped.names())
    return f"expected a file, or the name of a config of the library: {', '.join(shipped.names())}{near}"


def _error_in(file: str, error: Exception, kind: str = "config") -> UserError:
    """An error that a Python file raised, in one line that says where."""
    if isinstance(error, UserError):
        return error
    here, frames = Path(file).absolute(), traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == here]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 0
    reason = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return UserError(f"{kind} {file}:{line}: {type(error).__name__}: {reason}")


def parse_arg(arg: str, **known: Any) -> ConfigDict:
    """Reads `name=value,flag` into the types of the defaults given: `parse_arg(arg, variant="B/16", runlocal=False)`.

    A comma with a backslash before it belongs to the value.

    Raises:
      UserError: unknown names, and values of another type.

    Examples:
      >>> from beit_jax.config import parse_arg
      >>> arg = parse_arg("size=96,flip", size=224, variant="B/16", flip=False)
      >>> arg.size, arg.variant, arg.flip
      (96, 'B/16', True)
    """
    values, mistakes, before = dict(known), Mistakes(), ""
    for item in (part.replace("\\,", ",") for part in re.split(r"(?<!\\),", arg or "") if part):
        name, given, text = item.partition("=")
        with mistakes.collected():
            if name not in known:
                raise UserError(_describe_unknown(item, name, known, before))
            if not given and not isinstance(known[name], bool):
                raise UserError(f"config argument {name!r} has no value; expected {name}={known[name]}")
            values[name] = _convert(name, text, known[name]) if given else True
        before = name if isinstance(known.get(name), str) else ""
    mistakes.raise_all()
    return ConfigDict(values)


def _describe_unknown(item: str, name: str, known: Mapping[str, Any], before: str) -> str:
    """
    Args:
      item: what is between two commas.
      name: that is unknown.
      known: the arguments of the config.
      before: the argument before this one, if its value is a text, which may have been cut at a comma.
    """
    near, names = did_you_mean(name, known), ", ".join(known)
    if before and not near and not re.match(r"\w+=", item):
        return (
            f"config argument {item!r} is unknown; expected one of {names}. A comma ends the value of {before}: if it "
            f"belongs to the value, write '\\,' within quotation marks, such as 'FILE.py:{before}=a\\,b'"
        )
    return f"config argument {name!r} is unknown; expected one of {names}{near}"


def _convert(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = float(text) if isinstance(default, float) else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if not is_finite(value):
        raise UserError(f"config argument {name}={text!r} is no finite number; its default is {default!r}")
    if type(value) is not type(default):
        raise UserError(f"config argument {name}={text!r} is no {type(default).__name__}; its default is {default!r}")
    return value
