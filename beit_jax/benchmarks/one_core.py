"""What the benchmarks that run on one core have in common."""

import argparse
import os


def use_one_core() -> None:
    """Keeps this process, with the threads of TensorFlow and NumPy, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def positive_int(text: str) -> int:
    """A whole number of at least 1, as an argparse type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return int(text)
