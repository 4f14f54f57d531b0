"""Measures what it costs to decode odd, bad and hostile images, each in a process of its own.

  python tests/reliability/image_costs.py

Prints a table in Markdown: kind, bytes of the file, seconds of a processor, the peak of the memory in MiB above that of
the process before it, and what the library says of the file. The op `decode` reads an image twice, once to see whether
it can be read; both count.
Ends with status 1 if a kind exceeds a limit.
"""

import argparse
import functools
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

import hostile_images
import image_zoo

MOST_MEMORY = 1000  # MiB, beside four times the bytes of the file
YARDSTICK = "JPEG, 88 megapixels"  # an ordinary file of the largest size: a slow machine needs longer for all of them
MOST_TIMES = 40
KINDS = {
    **{f"odd: {name}": functools.partial(lambda content: content, value[0]) for name, value in image_zoo.odd().items()},
    **{f"bad: {name}": functools.partial(lambda content: content, value[0]) for name, value in image_zoo.bad().items()},
    **hostile_images.FILES,
}


class Cost(NamedTuple):
    """Bytes of a file, and what it costs: seconds of a processor, MiB."""

    size: int
    seconds: float
    mebibytes: float
    fault: str


def memory(key: str) -> float:
    """Of this process, in MiB."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) / 1024


def _decode(kind: str, connection: Connection) -> None:
    import tensorflow as tf

    from beit_jax.data.ops import image as image_ops

    seed, op = tf.constant([0, 0], tf.int64), tf.function(image_ops.decode(), autograph=False)
    content = KINDS[kind]()
    for name in ("JPEG", "PNG", "GIF", "BMP"):  # TensorFlow prepares its functions
        op({"image": tf.constant(image_zoo.encode(image_zoo.picture(0), name))}, seed)
    encoded = tf.constant(content)
    connection.send(len(content))
    del content
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = memory("VmRSS"), time.process_time()
    found = op({"image": encoded}, seed)
    seconds = time.process_time() - began
    connection.send((seconds, memory("VmHWM") - before, found["_fault"].numpy().decode()))


def measure(kind: str, most_seconds: float = 300) -> Cost:
    """What it costs to decode a file of a kind of `KINDS`."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_decode, args=(kind, there))
    process.start()
    there.close()
    try:
        size = here.recv()
        if not here.poll(most_seconds):
            return Cost(size, most_seconds, float("nan"), "not finished")
        return Cost(size, *here.recv())
    except EOFError:
        process.join()
        return Cost(0, float("nan"), float("nan"), f"the process ended with status {process.exitcode}")
    finally:
        process.kill()
        process.join()


def is_bounded(cost: Cost, yardstick: Cost) -> bool:
    """Whether a file costs no more than the limits, the seconds beside those of `YARDSTICK` in the same run."""
    seconds = MOST_TIMES * yardstick.seconds
    return cost.seconds <= seconds and cost.mebibytes <= MOST_MEMORY + 4 * cost.size / 2**20


def main() -> int:
    """Runs everything; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the names of the kinds")
    settings = parser.parse_args()
    import tensorflow  # noqa: F401 - before the processes are made, which share it

    print("| kind | bytes | seconds | peak MiB | what is said |\n| --- | --- | --- | --- | --- |")
    bounded, yardstick = True, measure(YARDSTICK)
    for kind in KINDS:
        if settings.only in kind:
            cost = measure(kind)
            within = is_bounded(cost, yardstick)
            bounded &= within
            mark = "" if within else " **above the limit**"
            columns = f"{cost.size:,} | {cost.seconds:.2f} | {cost.mebibytes:.0f}{mark}"
            print(f"| {kind} | {columns} | {cost.fault or 'read'} |", flush=True)
    return 0 if bounded else 1


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main())
