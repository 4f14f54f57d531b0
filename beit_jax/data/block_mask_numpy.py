"""Block masks in NumPy, one at a time: for benchmarks and pictures; training's are drawn in `data.ops_mask`."""

import math
from collections.abc import Callable

import numpy as np


def block_mask(uniform: Callable[[], float], grid: tuple[int, int], num_masked: int, min_block: int) -> np.ndarray:
    """bool `[h, w]`: the rule of `data.ops_mask.blockwise_masks`, one mask and one attempt at a time."""
    mask, count = np.zeros(grid, bool), 0
    while count < num_masked:
        cap = num_masked - count
        for _ in range(10):
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
                count += new
                break
        else:
            break
    return mask
