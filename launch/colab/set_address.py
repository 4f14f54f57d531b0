"""Writes the public address of the repository into all notebooks, and a link that opens each of them on Colab.

  python launch/colab/set_address.py https://github.com/OWNER/beit_jax
  python launch/colab/set_address.py      again, for notebooks that have been added

The address is kept in one place, ADDRESS of setup.py; a test compares the notebooks with it. Links are written into the
notebooks' titles, and beside each link to a notebook in README.md and launch/README.md. Only addresses on GitHub can be
opened on Colab.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from beit_jax import cli, command
from beit_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "launch/README.md")
ADDRESS = re.compile(r'^ADDRESS = "(.*)"', re.MULTILINE)
REPOSITORY = re.compile(r'^REPOSITORY = ".*"$', re.MULTILINE)
BADGE = re.compile(r"^\[!\[Open in Colab\].*\n\n?")
IMAGE = "https://colab.research.google.com/assets/colab-badge.svg"
LINK = re.compile(r"(\[[^\]]*\]\((?:launch/)?colab/(\w+)\.ipynb\))(?: \(\[open in Colab\]\([^)]*\)\))?")


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    parser = cli.Parser(prog="python launch/colab/set_address.py", description=__doc__)
    parser.add_argument(
        "address", nargs="?", help="of the repository, as `git clone` takes it (default: that of setup.py)"
    )
    address = parser.parse_args(argv).address
    if address is not None:
        if address and not re.fullmatch(r"https://[\w.-]+/[\w./-]+", address):
            raise UserError(f"found the address {address}; expected one such as https://github.com/OWNER/beit_jax")
        setup = ROOT / "setup.py"
        setup.write_text(ADDRESS.sub(f'ADDRESS = "{address}"', setup.read_text(encoding="utf-8")), encoding="utf-8")
    for file, text in changed_files().items():
        file.write_text(text, encoding="utf-8")
        print(file.relative_to(ROOT))


def changed_files() -> dict[Path, str]:
    """The notebooks and pages that do not have the address of setup.py, with the text that they should have."""
    address = ADDRESS.search((ROOT / "setup.py").read_text(encoding="utf-8"))[1]
    files = {file: with_address(file.read_text(encoding="utf-8"), file.stem, address) for file in notebooks()}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        files[ROOT / page] = LINK.sub(lambda link: f"{link[1]}{_link(link[2], address)}", text)
    return {file: text for file, text in files.items() if text != file.read_text(encoding="utf-8")}


def notebooks() -> list[Path]:
    """The files of all notebooks."""
    return sorted((ROOT / "launch" / "colab").glob("*.ipynb"))


def with_address(text: str, name: str, address: str) -> str:
    """The text of a notebook's file with another address.

    Args:
      text: of the file.
      name: of the notebook.
      address: of the repository; empty: none.
    """
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["id"] == "title":
            badge = (
                f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab(name, address)})"
            )
            source = (f"{badge}\n\n" if colab(name, address) else "") + BADGE.sub("", source)
        if cell["id"] == "settings":
            source = REPOSITORY.sub(f'REPOSITORY = "{address}"', source)
        cell["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def colab(name: str, address: str) -> str:
    """The address at which Colab opens a notebook of a repository on GitHub; empty for another repository."""
    path = address.removeprefix("https://github.com/").removesuffix(".git").rstrip("/")
    if path == address or path.count("/") != 1:
        return ""
    return f"https://colab.research.google.com/github/{path}/blob/main/launch/colab/{name}.ipynb"


def _link(name: str, address: str) -> str:
    return f" ([open in Colab]({colab(name, address)}))" if colab(name, address) else ""


if __name__ == "__main__":
    command.run(main)
