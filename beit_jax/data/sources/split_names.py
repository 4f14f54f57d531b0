"""Large files that hold a data set, such as tars: which there are, and which split each belongs to by its name."""

import glob
import os
import re
from collections.abc import Iterable

from beit_jax.data.sources import layout
from beit_jax.errors import UserError

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
NUMBERED = re.compile(r"(\w+)-\d{5}-of-\d{5}\b")  # as Hugging Face names any split
MOST = 1_000_000  # files of a pattern


def find_files(path: str, extensions: tuple[str, ...]) -> list[str]:
    """The files with an extension below a folder, or those that a pattern such as `train-{000..063}.tar` names.

    Raises:
      UserError: there are none, or one that a range names is missing.
    """
    if os.path.isdir(path):
        found = [os.path.join(top, name) for top, _, names in os.walk(path) for name in names if name[0] != "."]
        return sorted(name for name in found if name.lower().endswith(extensions))
    files = []
    for pattern in _expand(path) if not os.path.isfile(path) else [glob.escape(path)]:
        found = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]
        if not found or not all(map(os.path.isfile, found)):
            raise UserError(
                f"there is no file {pattern}; expected a folder, a file, or a pattern such as {{000..063}} or *"
            )
        files += found
    return list(dict.fromkeys(files))


def by_split(files: Iterable[str], root: str) -> dict[str, list[str]]:
    """The files of each split, in order.

    A split is a word of the file's name, or of the folders in which it lies below `root`, such as
    `imagenet-train-0001.tar`. Files are `train` if none is called after a split.

    Raises:
      UserError: a name has several splits, or only some have one.
    """
    named = {path: _split_of(os.path.relpath(path, root)) for path in files}
    if not any(named.values()):
        return {layout.REFERENCE: list(named)} if named else {}
    for path, split in named.items():
        if not split:
            other = next(path for path, split in named.items() if split)
            raise UserError(
                f"{path} has no split in its name, and {other} has; expected one in every name, or in none "
                f"({layout.NAMES})"
            )
    return {split: [path for path in named if named[path] == split] for split in dict.fromkeys(named.values())}


def _split_of(name: str) -> str:
    for part in reversed(name.split(os.sep)):
        words = re.findall(r"[a-z]+", part.lower())
        found = {layout.SPLIT_OF[word] for word in words if word in layout.SPLIT_OF}
        if len(found) > 1:
            raise UserError(f"the name {name} has the words of the splits {' and '.join(sorted(found))}; rename it")
        if found:
            return found.pop()
    generic = NUMBERED.match(os.path.basename(name))
    return generic[1] if generic else ""


def _expand(pattern: str) -> list[str]:
    """The patterns without ranges that one with ranges stands for."""
    match = RANGE.search(pattern)
    if not match:
        return [pattern]
    first, last, width = int(match[1]), int(match[2]), len(match[1])
    if not first <= last < first + MOST:
        raise UserError(f"found the range {match[0]}; expected two numbers such as {{000..063}}")
    names = (
        f"{pattern[: match.start()]}{number:0{width}d}{pattern[match.end() :]}" for number in range(first, last + 1)
    )
    return [name for named in names for name in _expand(named)]
