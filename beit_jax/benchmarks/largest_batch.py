"""The largest batch that fits into the memory of a device."""

import sys
from collections.abc import Callable

from beit_jax.errors import UserError

EXAMPLES = 8  # of a device: batches are multiples of it
MEASUREMENTS = 8  # at most, of programs that each take a minute or more to compile


def find(planned: Callable[[int], int | None], shards: int, memory: float) -> int:
    """The largest batch, in steps of `EXAMPLES` a device, among those that were tried.

    Memory grows about linearly with the batch: two programs tell where it ends, and one more verifies.

    Args:
      planned: bytes on a device that a program for so many examples needs; None where the compiler refuses it.
      shards: a number that must divide the batch.
      memory: bytes of a device.

    Raises:
      UserError: even the smallest batch does not fit.
    """
    unit = EXAMPLES * shards
    found: dict[int, int | None] = {}

    def fits(batch: int) -> bool:
        found[batch] = planned(batch)
        size = "more than there is" if found[batch] is None else f"{found[batch] / 2**30:.2f} GiB"
        print(f"batch {batch:,}: {size} of {memory / 2**30:.2f} GiB on each device", file=sys.stderr, flush=True)
        return found[batch] is not None and found[batch] <= memory

    if not fits(unit):
        raise UserError(
            f"even a batch of {unit}, {EXAMPLES} examples a device, does not fit into {memory / 2**30:.2f} GiB; choose "
            "a smaller model, model.remat='full', or more devices that share its parameters (mesh.fsdp)"
        )
    largest, refused, batch = unit, 0, 4 * unit
    for _ in range(MEASUREMENTS):
        if fits(batch):
            largest = batch
        else:
            refused = batch
        batch = _next(found, largest, refused, unit, memory)
        if batch <= largest or (refused and batch >= refused):
            break
    return largest


def _next(found: dict[int, int | None], largest: int, refused: int, unit: int, memory: float) -> int:
    """The next batch to try: where a line through the last two sizes ends, or the middle of what is left."""
    known = sorted(batch for batch, size in found.items() if size is not None)
    if len(known) < 2:
        guess = (largest + refused) // 2
    else:
        first, second = known[-2:]
        slope = (found[second] - found[first]) / (second - first)
        guess = second + int((memory - found[second]) / slope) if slope > 0 else 2 * second
    guess -= guess % unit
    return min(guess, refused - unit) if refused else guess
