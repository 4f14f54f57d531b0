"""Measures the memory of the input pipeline over thousands of steps.

  python tests/reliability/memory_test.py --steps 5000 --window 50000

Reads small images with a large shuffle window, from sharded records and from a folder, each in a process of its own.
Prints the resident memory as a table in Markdown. Memory falls at the end of an epoch, when the window becomes empty;
the maximum of each epoch must stay the same. Ends with status 1 if a maximum differs from the mean over the epochs by
more than 2%. The first epoch is a warm-up and does not count.
"""

import argparse
import io
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np

OPS = "decode|flip_lr|two_views(32, 16)|normalize|map_pixels|blockwise_mask(6, 2, 4)"
KINDS = {"sharded": "tfds records in 16 files", "folder": "a folder of files"}
DIFFERENT = 500  # images; the others repeat them


def encoded(count: int) -> list[bytes]:
    """JPEG files of about 1 to 20 kB."""
    from PIL import Image

    random, files = np.random.default_rng(0), []
    for _ in range(count):
        side, buffer = int(random.integers(24, 160)), io.BytesIO()
        Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=50)
        files.append(buffer.getvalue())
    return files


def write_records(folder: Path, count: int) -> None:
    """Writes a tfds dataset called `noise`."""
    import tensorflow_datasets as tfds

    files = encoded(DIFFERENT)

    class Noise(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3))})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": ((index, {"image": io.BytesIO(files[index % DIFFERENT])}) for index in range(count))}

        def _generate_examples(self):
            raise NotImplementedError

    Noise(data_dir=str(folder)).download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=16))


def write_folder(folder: Path, count: int) -> None:
    """Writes `count` image files."""
    folder.mkdir()
    files = encoded(DIFFERENT)
    for index in range(count):
        (folder / f"{index}.jpg").write_bytes(files[index % DIFFERENT])


def resident() -> float:
    """Memory of this process, in MiB."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def measure(kind: str, folder: Path, settings: argparse.Namespace) -> list[float]:
    """The memory in MiB after every step; the first epoch is a warm-up."""
    data = folder / kind
    write = write_records if kind == "sharded" else write_folder
    # In a process of its own, because its memory is not that of the input.
    with new_process() as writer:
        writer.submit(write, data, settings.records).result()
    from beit_jax.data import pipeline

    config = SimpleNamespace(
        source="noise" if kind == "sharded" else f"folder:{data}",
        data_dir=str(data),
        split="train",
        labels="all",
        repeats=1,
        shuffle_buffer=settings.window,
        max_bad_fraction=0.0,
        ops=OPS,
    )
    stream = pipeline.make_train(config, seed=0, batch_size=settings.batch)
    memory, began = [], time.monotonic()
    steps = stream.steps_per_epoch + settings.steps
    for step in range(steps):
        next(stream)
        memory.append(resident())
        if step % 100 == 99:
            speed = (step + 1) / (time.monotonic() - began)
            text = f"{kind}: {step + 1} of {steps} steps, {memory[-1]:.0f} MiB, {speed:.0f} steps/s"
            print(text, file=sys.stderr, flush=True)
    return memory


def new_process() -> ProcessPoolExecutor:
    """An executor for one call in a new Python process."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def main() -> int:
    """Runs everything; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--records", type=int, default=60_000)
    parser.add_argument("--window", type=int, default=50_000, help="shuffle window in records")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--limit", type=float, default=0.02, help="largest difference from the mean, as a fraction")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    settings = parser.parse_args()
    flat = True
    with tempfile.TemporaryDirectory() as folder:
        for kind in settings.kinds:
            with new_process() as watcher:
                memory = watcher.submit(measure, kind, Path(folder), settings).result()
            flat &= report(kind, np.array(memory), settings)
    return 0 if flat else 1


def report(kind: str, memory: np.ndarray, settings: argparse.Namespace) -> bool:
    """Prints the table of one source; returns whether its memory is flat."""
    epoch = settings.records // settings.batch
    epochs = np.split(memory, np.arange(epoch, len(memory), epoch))
    mean = np.mean([part.max() for part in epochs[1:]])
    print(f"{KINDS[kind]}: {settings.records} images, window {settings.window}, batches of {settings.batch}\n")
    print("| steps | minimum MiB | maximum MiB | from the mean |\n| --- | --- | --- | --- |")
    for number, part in enumerate(epochs):
        steps = f"{number * epoch + 1} - {number * epoch + len(part)}"
        change = f"{part.max() / mean - 1:+.1%}" if number else "warm-up"
        print(f"| {steps} | {part.min():.0f} | {part.max():.0f} | {change} |")
    largest = max(abs(part.max() / mean - 1) for part in epochs[1:])
    print(
        f"\nLargest difference from the mean of {mean:.0f} MiB: {largest:.1%}; expected at most {settings.limit:.0%}\n",
        flush=True,
    )
    return largest <= settings.limit


if __name__ == "__main__":
    sys.exit(main())
