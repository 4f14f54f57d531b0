"""What is told about the owner of a locked workdir."""

import sys
from pathlib import Path

from beit_jax.errors import UserError
from beit_jax.runtime import membership


def refusal(path: Path, owner: dict[str, object]) -> UserError:
    """What to tell whoever meets the lock of another run."""
    return UserError(
        f"{path.parent} is in use by process {owner.get('pid', '?')} on {owner.get('host', '?')}; wait for it, stop "
        "it, or choose another --workdir"
    )


def end_without_lock(path: Path, owner: dict[str, object]) -> None:
    """Ends the process, whose workdir another one has taken over."""
    reason = (
        f"{path.parent} was taken over by process {owner.get('pid', '?')} on {owner.get('host', '?')}, while this one "
        "did not run"
    )
    print(f"error: {reason}", file=sys.stderr)
    membership.exit_process(2, reason)
