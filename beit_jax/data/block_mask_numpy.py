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
