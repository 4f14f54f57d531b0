"""Runs the examples of names of the library, in the current folder, and prints those that fail as JSON.

python tests/api_examples.py PAGE
"""

import doctest
import io
import json
import pydoc
import re
import sys
from pathlib import Path
from typing import NamedTuple

SECTION = re.compile(r"^::: (beit_jax[\w.]+)\n(.*?)(?=^:::|^#|\Z)", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """A name of the page, its examples and the globals of their own that they begin with."""

    name: str
    text: str


def on_page(page: str) -> list[Example]:
    """The names of a page, each with its docstring and what the page adds to it."""
    return [Example(name, f"{pydoc.locate(name).__doc__}\n\n{more}") for name, more in SECTION.findall(page)]


def failures(page: str) -> dict[str, str]:
    """What doctest says of each name whose examples fail."""
    preamble, failed = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {}
    runner, parser = doctest.DocTestRunner(verbose=False), doctest.DocTestParser()
    for name, text in on_page(page):
        made, said = {"__name__": "page"}, io.StringIO()
        exec(preamble, made)
        runner.run(parser.get_doctest(text.replace("```", ""), made, name, name, 0), out=said.write)
        failed |= {name: said.getvalue()} if said.getvalue() else {}
    return failed


if __name__ == "__main__":
    print(json.dumps(failures(Path(sys.argv[1]).read_text())))
