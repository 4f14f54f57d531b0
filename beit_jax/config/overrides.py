"""Keys that the command line sets: `--config.KEY=VALUE`, or `--config.KEY VALUE`."""

import ast
import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config.nearest import describe_unknown
from beit_jax.config.schema import declared_keys
from beit_jax.config.serialization import flatten
from beit_jax.errors import Mistakes, UserError
from beit_jax.models import image_size

PREFIX = "--config."
CHOOSES_KEYS = re.compile(r"(?:\w+\.)?(task|model\.kind|tokenizer\.kind)")
OF_EVERY_STAGE = ("loggers", "project")  # keys that are given to a recipe without the name of a stage
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def override(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Applies arguments to a config, in place; those that are right are applied even if others are wrong.

    A value that cannot be read in the type of its key is set as it is written: `validate` refuses it, together with
    everything else that is wrong. Of a key that is given twice, the last value counts, which a warning says.

    Raises:
      UserError: keys that are unknown, and arguments that set no key.
    """
    mistakes, given = Mistakes(), {}
    for argument, name, text in _read(arguments):
        with mistakes.collected():
            if name is None:
                raise UserError(f"unexpected argument {argument!r}; keys are set with {PREFIX}KEY=VALUE, see --help")
            if given.setdefault(name, text) != text:  # as scripts do that add arguments to those they get
                message = "%s%s is given twice, as %r and %r; the last one counts"
                logging.getLogger("beit_jax").warning(message, PREFIX, name, given[name], text)
                given[name] = text
            for key in [f"{stage}.{name}" for stage in _stages_with(config, name)] or [name]:
                _set(config, key, text)
    for name in given:
        _clear_other_length(config, name, given)
    mistakes.raise_all()


def _stages_with(config: ConfigDict, name: str) -> list[str]:
    """The stages of a recipe that a key without a stage is set in; none for most keys."""
    return list(config.get("stages", ())) if name in OF_EVERY_STAGE else []


def _clear_other_length(config: ConfigDict, name: str, given: Mapping[str, str | None]) -> None:
    """A length in epochs that is given replaces one in steps, and the other way round, unless both are given."""
    section, dot, key = name.rpartition(".")
    other = {"epochs": "steps", "steps": "epochs"}.get(key)
    if other and f"{section}{dot}{other}" not in given and flatten(config).get(name):
        (config[section] if section else config)[other] = 0.0 if other == "epochs" else 0


def _read(arguments: Sequence[str]) -> Iterator[tuple[str, str | None, str | None]]:
    """Each argument with the name of the key and the text of the value; a value may be an argument of its own."""
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, text = argument.removeprefix(PREFIX).partition("=")
        if not argument.startswith(PREFIX):
            yield argument, None, None
        elif equals:
            yield argument, name, text
        else:
            yield argument, name, rest.pop(0) if rest and not rest[0].startswith("--") else None


def _set(config: ConfigDict, name: str, text: str | None) -> None:
    values = flatten(config)
    if match := CHOOSES_KEYS.fullmatch(name):
        raise UserError(
            f"{PREFIX}{name}={text or ''} would change which keys there are; set {match[1]} in the config file, with "
            "defaults(TASK, TOKENIZER_KIND)"
        )
    if name not in values:
        raise UserError(describe_unknown(config, name, PREFIX))
    if text is None and not isinstance(values[name], bool):
        raise UserError(f"{PREFIX}{name} has no value; expected {PREFIX}{name}=VALUE, such as {values[name]!r}")
    *sections, key = name.split(".")
    default = _default_of(config, name, values[name])
    for section in sections:
        config = config[section]
    with config.unlocked():
        config[key] = True if text is None else _convert(text, default, key)


def _default_of(config: ConfigDict, name: str, value: Any) -> Any:
    """The default that a key is declared with, also of a stage; the value of one that is not declared."""
    stage, _, rest = name.partition(".")
    is_of_stage = stage in config.get("stages", ())
    run, key = (config[stage], rest) if is_of_stage else (config, name)
    with contextlib.suppress(UserError):  # of an unknown task, which `validate` refuses
        if declared := declared_keys(run).get(key):
            return declared.default
    return value


def _convert(text: str, default: Any, key: str) -> Any:
    """The text as a value of the type of a default; the text itself if it cannot be read so."""
    try:
        if key == "image_size":
            return image_size.parse(text)
        match default:
            case bool():
                return BOOLEANS[text.lower()]
            case int():
                return int(text)
            case float():
                return float(text)
            case () if re.fullmatch(r"([A-Za-z]\w*(,[A-Za-z]\w*)*)?", text):
                return tuple(text.split(",")) if text else ()  # names, which need no quotes
            case tuple():
                value = ast.literal_eval(text)
                return tuple(value) if isinstance(value, list | tuple) else (value,)
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        pass
    return text
