"""Whether what ops make is what a task needs, by shapes and dtypes."""

from collections.abc import Mapping
from typing import Any

from beit_jax.errors import UserError
from beit_jax.typing import Spec


def compare_specs(found: Mapping[str, Any], wanted: Spec, ops: str, who: str) -> None:
    """Checks that ops make what is needed.

    Args:
      found: shapes and dtypes of a batch of one example that the ops make, by name.
      wanted: the shapes and dtypes that are needed.
      ops: the config key of the ops, for the message.
      who: what needs them, for the message.

    Raises:
      UserError: something is missing, or of another shape or type.
    """
    missing = [name for name in wanted if name not in found]
    if missing:
        names = ", ".join(map(repr, missing))
        raise UserError(f"{ops} leave no {names}, which the {who} needs; found {', '.join(found)}")
    for name, expected in wanted.items():
        shape, dtype = found[name]
        if (shape, dtype) != (expected.shape, expected.dtype):
            raise UserError(
                f"{ops} make {name!r} {dtype}{list(shape[1:])}; the {who} expects "
                f"{expected.dtype}{list(expected.shape[1:])}: make the ops and the model's sizes agree"
            )
