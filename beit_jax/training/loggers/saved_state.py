"""The file `loggers.json` of a run: how far each logger is."""

import json
import threading
from pathlib import Path
from typing import NamedTuple

from beit_jax.runtime.atomic_write import write_text

FILE = "loggers.json"
_lock = threading.Lock()  # each logger has a thread


class Saved(NamedTuple):
    """How far a logger is.

    Attributes:
      id: of the log at the service; None: there is none yet.
      step: the last one that is in it.
      project: that it belongs to.
    """

    id: str | None = None
    step: int = -1
    project: str = ""


def read_state(folder: Path) -> dict[str, Saved]:
    """The state of each logger of a run, by its name; empty where the file is missing or damaged."""
    try:
        state = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    found, types = {}, {"id": str, "step": int, "project": str}
    for name, entry in state.items() if isinstance(state, dict) else ():
        if isinstance(entry, dict) and {key: type(value) for key, value in entry.items()} == types:
            found[name] = Saved(**entry)
    return found


def write_state(folder: Path, name: str, saved: Saved) -> None:
    """Replaces the state of one logger.

    Raises:
      OSError: the file cannot be written.
    """
    with _lock:
        state = read_state(folder) | {name: saved}
        text = json.dumps({logger: entry._asdict() for logger, entry in state.items()}, indent=1)
        write_text(folder / FILE, text + "\n")
