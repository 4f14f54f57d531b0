"""Block masks on one core: microseconds a mask, in the graph and in two loops of Python, timed in turns.

The loops are a plain one in NumPy, and one that works as the official generator does (unilm `masking_generator.py`).
"""

import argparse
import functools
import json
import math
import os
import random
from collections.abc import Sequence

import numpy as np

from beit_jax import cli
from beit_jax.benchmarks.timing import in_turns
from beit_jax.data.block_mask_numpy import block_mask


def main(argv: Sequence[str]) -> None:
    """`python -m beit_jax.benchmark masks`, with the arguments behind that name."""
    parser = cli.Parser(prog="python -m beit_jax.benchmark masks", description=__doc__)
    parser.add_argument("--batch", type=positive, default=256, help="masks made at once (default 256)")
    parser.add_argument("--grid", type=positive, nargs=2, default=(14, 14), metavar=("ROWS", "COLUMNS"), help="patches")
    parser.add_argument("--rounds", type=positive, default=7, help="ten batches each, of which the median is told")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _masks(parser.parse_args(argv))


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return int(text)


def official_mask(source: random.Random, grid: tuple[int, int], num_masked: int, min_block: int) -> np.ndarray:
    """int `[h, w]` of 0 and 1: the same rule with CPython's random numbers, and block after block cell by cell."""
    mask, count, log_aspect = np.zeros(grid, int), 0, math.log(1 / 0.3)
    while count < num_masked:
        added, cap = 0, num_masked - count
        for _ in range(10):
            area, aspect = source.uniform(min_block, cap), math.exp(source.uniform(-log_aspect, log_aspect))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= grid[0] or width >= grid[1]:
                continue
            top, left = source.randint(0, grid[0] - height), source.randint(0, grid[1] - width)
            new = height * width - mask[top : top + height, left : left + width].sum()
            if not 0 < new <= cap:
                continue
            for row in range(top, top + height):
                for column in range(left, left + width):
                    if mask[row, column] == 0:
                        mask[row, column] = 1
                        added += 1
            break
        if not added:
            break
        count += added
    return mask


def on_one_core() -> None:
    """Keeps this process on one core, whatever else TensorFlow and NumPy would take."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _masks(settings: argparse.Namespace) -> None:
    from beit_jax.data.ops.mask import blockwise_masks  # before TensorFlow, which it keeps quiet

    on_one_core()
    import tensorflow as tf

    grid, batch = tuple(settings.grid), settings.batch
    rule = dict(num_masked=max(1, 75 * grid[0] * grid[1] // 196), min_block=max(1, 16 * grid[0] * grid[1] // 196))

    # Nothing here needs TensorFlow's rewriting of Python, which makes ten lines of an error's one.
    @functools.partial(tf.function, autograph=False)
    def graph(call: tf.Tensor) -> tf.Tensor:
        places = call * batch + tf.range(batch, dtype=tf.int64)
        return blockwise_masks(tf.stack([tf.zeros_like(places), places], axis=1), grid, **rule)

    source = random.Random(0)

    def in_graph(first: int, count: int) -> None:
        for call in range(first, first + count):
            graph(tf.constant(call, tf.int64)).numpy()

    def plainly(first: int, count: int) -> None:
        for _ in range(count):
            np.stack([block_mask(source.random, grid, **rule) for _ in range(batch)])

    def officially(first: int, count: int) -> None:
        for _ in range(count):
            np.stack([official_mask(source, grid, **rule) for _ in range(batch)])

    ours, plain, official = in_turns([in_graph, plainly, officially], settings.rounds, calls=10)
    figures = {"graph": ours / batch * 1e6, "plain": plain / batch * 1e6, "official": official / batch * 1e6}
    figures |= {"ratio": plain / ours, "official_ratio": official / ours}
    if settings.json:
        print(json.dumps({"batch": batch, "grid": list(grid), "unit": "microseconds per mask", **figures}))
        return
    setting = f"{grid[0]}x{grid[1]} grid, batches of {batch}, one core, median of {settings.rounds} rounds"
    print(f"block masks on a {setting}")
    print(f"  in the graph, a batch at once   {figures['graph']:7.1f} us per mask")
    print(f"  plain NumPy loop                {figures['plain']:7.1f} us per mask, {figures['ratio']:.1f} times ours")
    print(f"  as the official generator       {figures['official']:7.1f} us per mask, {official / ours:.1f} times ours")
