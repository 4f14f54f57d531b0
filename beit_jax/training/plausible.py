"""Refuses parameters that no network has: a flipped bit, or a run that diverged."""

from collections.abc import Mapping

import numpy as np

from beit_jax.errors import UserError, printable

# The square of float16's largest number. A network that half precision can compute has smaller weights, and running
# variances are squares. The highest bit of an exponent multiplies numbers below 2 by 2^128: of those above 1.3e-29, it
# makes larger ones than this.
LARGEST = 65504.0**2


def check_numbers(tensors: Mapping[str, np.ndarray], source: object) -> None:
    """Checks arrays of any shapes, by their names; those of integers pass. All checkpoints that are loaded come here.

    Args:
      tensors: arrays by name.
      source: where they are from, for the message.

    Raises:
      UserError: a number is not finite, or larger than `LARGEST`; names the first one.
    """
    wrong = [name for name, values in tensors.items() if not _is_plausible(values)]
    if not wrong:
        return
    name = min(wrong)
    values = np.asarray(tensors[name], np.float64)
    place = np.unravel_index(np.flatnonzero(~(np.abs(values) <= LARGEST))[0], values.shape)
    where = f" at [{', '.join(map(str, place))}]" if place else ""
    others = f", and such numbers in {len(wrong) - 1:,} more tensors" if len(wrong) > 1 else ""
    raise UserError(
        f"{source} holds {values[place]:.3g} in {printable(name)}{where}{others}; expected finite numbers of at "
        f"most {LARGEST:.2g}: it is damaged, or of a run that diverged. Copy or download it again, or choose another"
    )


def _is_plausible(values: np.ndarray) -> bool:
    if values.size == 0 or values.dtype.kind in "iub":
        return True
    with np.errstate(invalid="ignore"):  # NaN, which is both the smallest and the largest
        return float(values.min()) >= -LARGEST and float(values.max()) <= LARGEST  # without temporary arrays
