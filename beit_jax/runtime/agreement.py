"""The processes of one run compare what they were given before they start: each would train on without a word."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from beit_jax.errors import UserError
from beit_jax.runtime import distributed

NAMED, LONGEST = 4, 200  # differences in a message, and characters of each value


def check_agreement(values: Mapping[str, str]) -> None:
    """Compares values, and the versions of Python and of this package, with those of process 0. All must call it.

    Args:
      values: text by name, such as the keys of a config.

    Raises:
      UserError: in every process, if one of them differs; names the process and the differences.
    """
    if distributed.process_count() == 1:
        return
    own = {**values, "version of Python": sys.version.split()[0], "code of beit_jax": _hash_code()}
    main = json.loads(distributed.broadcast_from_main(json.dumps(own)))
    differing = sorted(name for name in own.keys() | main.keys() if own.get(name) != main.get(name))
    lines = [f"{name} is {_shown(own.get(name))}, and {_shown(main.get(name))} there" for name in differing[:NAMED]]
    more = f", and {len(differing) - NAMED} more differ" if len(differing) > NAMED else ""
    for process, difference in enumerate(distributed.gather("agreement", ", ".join(lines) + more)):
        if difference:
            raise UserError(
                f"process {process} was not started as process 0 was: {difference}; start all with the same command, "
                "code and data"
            )


def _shown(value: str | None) -> str:
    text = "absent" if value is None else value
    return f"{text[:LONGEST]}..." if len(text) > LONGEST else text


def _hash_code() -> str:
    """A hash of the source files of this package."""
    package, digest = Path(__file__).parents[1], hashlib.blake2b(digest_size=8)
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
