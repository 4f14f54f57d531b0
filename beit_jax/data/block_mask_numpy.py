"""The rule of blockwise masks in NumPy, for readers, pictures, benchmarks and tests.

It makes one mask, one attempt at a time. Training draws its masks in `data.ops.mask`.
"""

import math
from collections.abc import Callable

import numpy as np

ATTEMPTS = 10


def block_mask(uniform: Callable[[], float], grid: tuple[int, int], num_masked: int, min_block: int) -> np.ndarray:
    """bool `[h, w]`, the rule of `data.ops.mask.blockwise_masks`; `uniform()` draws a number from [0, 1)."""
    mask = np.zeros(grid, bool)
    while (cap := num_masked - int(mask.sum())) > 0:
        for _ in range(ATTEMPTS):
            area = min_block + (cap - min_block) * uniform()
            root_aspect = math.exp((uniform() - 0.5) * math.log(1 / 0.3))
            height, width = round(math.sqrt(area) * root_aspect), round(math.sqrt(area) / root_aspect)
            if height >= grid[0] or width >= grid[1]:
                continue
            top, left = int(uniform() * (grid[0] - height + 1)), int(uniform() * (grid[1] - width + 1))
            block = mask[top : top + height, left : left + width]
            new = height * width - int(block.sum())
            if 0 < new <= cap:
                block[:] = True
                break
        else:  # no attempt was accepted
            if not mask.any():
                mask[int(uniform() * grid[0]), int(uniform() * grid[1])] = True
            return mask
    return mask


def fill_mask(mask: np.ndarray, num_masked: int, choose: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """A mask bool `[h, w]` with random patches added until it has `num_masked` (BEiT v2; `exact` of `blockwise_masks`).

    Args:
      mask: with `num_masked` patches or fewer.
      num_masked: patches of the result.
      choose: from row-major indices of visible patches and a number to as many of them, each once; not called for none.
        BEiT v2 takes `numpy.random.choice(indices, number, replace=False)`.
    """
    filled = mask.copy()
    if missing := num_masked - int(mask.sum()):
        filled.flat[choose(np.flatnonzero(~mask), missing)] = True
    return filled
