"""Writes the parts of docs/config_keys.md and docs/ops.md that follow from declarations, whenever the pages are built.

A page holds a line `<!-- keys -->` or `<!-- ops -->`, which `mkdocs build` replaces (mkdocs.yml names this file). Keys
are those of `beit_jax.config`; ops are read from their source code, so that building needs no TensorFlow.
"""

import ast
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from beit_jax.config import keys_of, task_names
from beit_jax.config.help import help_of
from beit_jax.config.keys import Key, flatten_keys
from beit_jax.config.shared import shared_keys
from beit_jax.config.tokenizer_kinds import KINDS

OPS = Path(__file__).resolve().parents[1] / "beit_jax" / "data" / "ops"
COLUMNS = "| key | default | type | meaning |\n| --- | --- | --- | --- |"


def on_config(config: Any) -> Any:
    """Shows the choice of versions in the pages that mike publishes; elsewhere there is one version."""
    if "MIKE_DOCS_VERSION" in os.environ:
        config.extra["version"] = {"provider": "mike"}
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    for line, text in (("<!-- keys -->", config_keys), ("<!-- ops -->", ops)):
        markdown = markdown.replace(line, text()) if line in markdown else markdown
    return markdown


def config_keys() -> str:
    """Every key of every task: those of all tasks once, then those of each, and of each kind of tokenizer."""
    shared = {name: key for name, key in flatten_keys(shared_keys("")).items() if name != "task"}
    parts = ["## Keys of every task", _table(shared)]
    for task in task_names():
        of_kinds = {kind: flatten_keys(keys_of(task, kind)) for kind in KINDS.names}
        first, *others = of_kinds.values()
        common = {name: key for name, key in first.items() if all(_same(name, key, other) for other in others)}
        own = {name: key for name, key in common.items() if name != "task" and not _same(name, key, shared)}
        parts += [f"## `task={task}`", _table(own)]
        for kind, keys in of_kinds.items():
            rest = {name: key for name, key in keys.items() if name not in common}
            parts += [f"### `task={task}`, tokenizers of the kind `{kind}`", _table(rest)] if rest else []
    return "\n\n".join(parts)


def _same(name: str, key: Key, others: Mapping[str, Key]) -> bool:
    return name in others and _row(name, key) == _row(name, others[name])


def _table(keys: Mapping[str, Key]) -> str:
    return "\n".join([COLUMNS, *(_row(name, key) for name, key in keys.items())])


def _row(name: str, key: Key) -> str:
    kind = "int or HEIGHTxWIDTH" if key.is_size else type(key.default).__name__
    help_text = help_of(key).replace("|", "\\|") + (" *May change when a run is continued.*" if key.resumable else "")
    return f"| `{name}` | {_code(key.default)} | {kind} | {help_text} |"


def _code(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, str) else repr(value)
    return "`{}`".format(text.replace("|", "\\|"))


class RegisteredOp(NamedTuple):
    """An op as its source code declares it: where it is, what `@register` says, and the first line of its docstring."""

    path: str
    level: str
    random: bool
    summary: str


def ops() -> str:
    """Every op: a table, then signature and docstring of each, which mkdocstrings reads."""
    found = sorted(find_ops(), key=lambda op: (op.level == "batch", op.path.rpartition(".")[2]))
    lines = ["| op | works on | random | what it does |", "| --- | --- | --- | --- |"]
    for op in found:
        name, level = op.path.rpartition(".")[2], {"any": "images or batches"}.get(op.level, op.level)
        lines.append(f"| [`{name}`](#{op.path}) | {level} | {'yes' if op.random else ''} | {op.summary} |")
    options = "    options: {show_root_full_path: false, heading_level: 2}"
    return "\n".join(lines) + "".join(f"\n\n::: {op.path}\n{options}" for op in found)


def find_ops() -> Iterator[RegisteredOp]:
    """The functions with `@register` in the files of `data/ops/`."""
    for file in sorted(OPS.glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            for call in getattr(node, "decorator_list", []):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register":
                    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
                    level = ast.literal_eval(call.args[0]) if call.args else given.get("level", "example")
                    path = f"beit_jax.data.ops.{file.stem}.{node.name}"
                    yield RegisteredOp(path, level, given.get("random", False), _summary(node))


def _summary(function: ast.FunctionDef) -> str:
    return " ".join((ast.get_docstring(function) or "").partition("\n\n")[0].split()).replace("|", "\\|")
