"""Block masks on one core: microseconds a mask, in the graph and in two Python loops, timed alternately.

One loop is `data.block_mask_numpy`. The other one works as the official generator does (unilm `masking_generator.py`).
"""

import argparse
import functools
import json
import random
from collections.abc import Sequence

import numpy as np

from beit_jax import cli
from beit_jax.benchmarks.one_core import positive_int, use_one_core
from beit_jax.benchmarks.pillow_baseline import official_mask
from beit_jax.benchmarks.timing import time_alternately
from beit_jax.data.block_mask_numpy import block_mask


def main(argv: Sequence[str]) -> None:
    """`python -m beit_jax.benchmark masks`, with the arguments that follow."""
    parser = cli.Parser(prog="python -m beit_jax.benchmark masks", description=__doc__)
    parser.add_argument("--batch", type=positive_int, default=256, help="masks of a batch (default 256)")
    parser.add_argument(
        "--grid", type=positive_int, nargs=2, default=(14, 14), metavar=("ROWS", "COLUMNS"), help="patches"
    )
    parser.add_argument("--rounds", type=positive_int, default=7, help="ten batches each; their median is printed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _run(parser.parse_args(argv))


def _run(settings: argparse.Namespace) -> None:
    from beit_jax.data.ops.mask import blockwise_masks  # before TensorFlow, whose messages it turns off

    use_one_core()
    import tensorflow as tf

    grid, batch = tuple(settings.grid), settings.batch
    rule = dict(num_masked=max(1, 75 * grid[0] * grid[1] // 196), min_block=max(1, 16 * grid[0] * grid[1] // 196))

    @functools.partial(tf.function, autograph=False)
    def graph(call: tf.Tensor) -> tf.Tensor:
        indices = call * batch + tf.range(batch, dtype=tf.int64)
        return blockwise_masks(tf.stack([tf.zeros_like(indices), indices], axis=1), grid, **rule)

    source = random.Random(0)

    def in_graph(first: int, count: int) -> None:
        for call in range(first, first + count):
            graph(tf.constant(call, tf.int64)).numpy()

    def in_numpy(first: int, count: int) -> None:
        for _ in range(count):
            np.stack([block_mask(source.random, grid, **rule) for _ in range(batch)])

    def officially(first: int, count: int) -> None:
        for _ in range(count):
            np.stack([official_mask(source, grid, **rule) for _ in range(batch)])

    ours, plain, official = time_alternately([in_graph, in_numpy, officially], settings.rounds, calls=10)
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
