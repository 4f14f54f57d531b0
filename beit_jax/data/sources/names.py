"""Names of files, folders and classes as text."""

import os
import unicodedata
from pathlib import Path


def relative_name(path: str, folder: str | Path) -> str:
    """The name of a listed file relative to its folder, without `Path`, which would take as long as the listing."""
    return path.removeprefix(os.path.join(folder, "")).replace(os.sep, "/")


def as_text(name: str) -> str:
    """The name of a file or a folder as text: bytes that are not UTF-8 as `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def class_name(folder_name: str) -> str:
    """The name of the class whose images lie in a folder.

    Letters with accents have one form (NFC): macOS and Linux write the same name with other bytes.
    """
    return unicodedata.normalize("NFC", as_text(folder_name))
