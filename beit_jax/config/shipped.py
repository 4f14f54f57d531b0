"""The configs that come with the library: in the package of an installed wheel, beside the package in a clone."""

import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
NAME = re.compile(r"(?:beit_jax/)?(?:configs/)?(\w+)(?:\.py)?")


def folder() -> Path:
    """The folder of the configs that come with the library."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def names() -> list[str]:
    """The names of these configs, such as "quickstart"."""
    return sorted(file.stem for file in folder().glob("*.py") if file.stem != "__init__")


def find(file: str) -> Path | None:
    """The file of a config of the library, by `quickstart` or `configs/quickstart.py`; None if there is none."""
    match = NAME.fullmatch(file)
    return folder() / f"{match[1]}.py" if match and match[1] in names() else None
