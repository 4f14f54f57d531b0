"""The input of pre-training on one core: milliseconds of CPU time an image, op by op and in total.

JPEG files of about 500x380 pixels, cut out of scikit-image's photographs, go through the ops of configs/pretrain.py in
its official and in its fast mode. With --vs pil the official preprocessing in Pillow runs alternately with them.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beit_jax import cli, extras
from beit_jax import config as configs
from beit_jax.benchmarks.one_core import positive_int, use_one_core
from beit_jax.benchmarks.timing import Timed, time_alternately
from beit_jax.config.pretrain import tokenizer_image_size

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry")
QUALITY = 94
MODES = {"official": "", "fast": ":fast"}
BATCH = 32
PASSES = 8  # over the files, in one call: pipelines are a few batches ahead
PAUSE = 0.3  # seconds


def main(argv: Sequence[str]) -> None:
    """`python -m beit_jax.benchmark input`, with the arguments that follow."""
    parser = cli.Parser(prog="python -m beit_jax.benchmark input", description=__doc__)
    parser.add_argument("--config", default="configs/pretrain.py", help="file with the argument fast")
    parser.add_argument(
        "--images", type=positive_int, default=64, help="files (default 64), all of which are read in each round"
    )
    parser.add_argument("--rounds", type=positive_int, default=5, help="measurements of each; their median is printed")
    parser.add_argument("--vs", choices=["pil"], help="run the official preprocessing in Pillow alternately with ours")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    settings = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        kilobytes = make_files(Path(folder), settings.images)
        figures = measure(settings.config, Path(folder), settings.images, settings.rounds, settings.vs)
    figures |= {"images": settings.images, "kilobytes": kilobytes, "unit": "milliseconds of CPU per image"}
    for line in _lines(figures):
        print(line)
    if settings.json:
        print(json.dumps(figures))


def make_files(folder: Path, count: int) -> float:
    """Writes JPEG files of 500x380 or 380x500 pixels, cut at random out of photographs; returns their mean size in kB.

    Raises:
      UserError: scikit-image is not installed.
    """
    from PIL import Image

    extras.check_installed("skimage")
    from skimage import data

    photographs = [Image.fromarray(getattr(data, name)()) for name in PHOTOGRAPHS]
    numbers, sizes = random.Random(0), []
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        width, height = (500, 380) if index % 3 else (380, 500)
        wide = min(photograph.width, photograph.height * width / height) * numbers.uniform(0.8, 1.0)
        high = wide * height / width
        left, top = numbers.uniform(0, photograph.width - wide), numbers.uniform(0, photograph.height - high)
        cut = photograph.resize((width, height), Image.LANCZOS, box=(left, top, left + wide, top + high))
        path = folder / f"{index:04d}.jpg"
        cut.save(path, "JPEG", quality=QUALITY)
        sizes.append(path.stat().st_size)
    return float(np.mean(sizes)) / 1e3


def measure(config: str, folder: Path, count: int, rounds: int, vs: str | None) -> dict[str, Any]:
    """Milliseconds an image.

    Returns:
      for each mode `{op: ms, ..., "batches": ms, "total": ms}`: what each op on single images adds to those before it,
      what all else takes, and everything through `data.pipeline`; with `vs`, `pil` likewise by its stages, and `vs`,
      how many times as fast as that each mode is in total.

    Raises:
      UserError: the config does not have the modes, or the files cannot be read.
    """
    from beit_jax.data import pipeline  # before TensorFlow, whose messages it turns off

    sections = {mode: configs.fill_in_sizes(configs.load(f"{config}{argument}")) for mode, argument in MODES.items()}
    use_one_core()
    timed: dict[tuple[str, str], Timed] = {}
    images: dict[tuple[str, str], int] = {}  # of one call
    files = sorted(map(str, folder.iterdir()))
    batch = min(BATCH, count)
    for mode, section in sections.items():
        data = section.data
        data.source, data.split, data.max_bad_fraction = f"folder:{folder}", "train", 0.0
        for name, ops in _prefixes(data.ops):
            timed[mode, name], images[mode, name] = _run_ops(ops, files), PASSES * count
        steps = PASSES * count // batch
        stream = pipeline.make_train(data, seed=0, batch_size=batch)
        timed[mode, "total"], images[mode, "total"] = _read_elements(stream, steps), steps * batch
    if vs:
        official = sections["official"]
        pillow = _Pillow(files, official.model.image_size, tokenizer_image_size(official))
        timed["pil", "total"], images["pil", "total"] = pillow, count
    seconds = time_alternately(list(timed.values()), rounds, calls=1, clock=time.process_time)
    cumulated: dict[str, dict[str, float]] = {}
    for (mode, name), taken in zip(timed, seconds, strict=True):
        cumulated.setdefault(mode, {})[name] = taken / images[mode, name] * 1e3
    figures = {mode: _increments(cumulated[mode]) for mode in MODES}
    if vs:
        figures["pil"] = pillow.milliseconds() | cumulated["pil"]
        figures["vs"] = {mode: cumulated["pil"]["total"] / cumulated[mode]["total"] for mode in MODES}
    return figures


def _prefixes(ops: str) -> list[tuple[str, str]]:
    """The ops on single images: the name of each, and the chain that ends with it."""
    from beit_jax.data import preprocessing

    texts = preprocessing.ops_on_examples(ops)
    return [(text.partition("(")[0], "|".join(texts[: index + 1])) for index, text in enumerate(texts)]


def _run_ops(ops: str, files: list[str]) -> Timed:
    """Reads each file and runs the ops on it; the result is one pixel, so that none is copied."""
    import tensorflow as tf

    from beit_jax.data import batching, preprocessing
    from beit_jax.data.features import SEED, Features

    program = preprocessing.build_program(ops)

    def read(index: tf.Tensor, path: tf.Tensor) -> Features:
        return {"image": tf.io.read_file(path), SEED: tf.stack([tf.constant(0, tf.int64), index])}

    def example(features: Features, seed: tf.Tensor) -> Features:
        features = program.example(features, seed)
        return {key: features[key][0, 0, 0] for key in features if key.endswith("image")}

    dataset = tf.data.Dataset.from_tensor_slices(files).repeat().enumerate()
    dataset = batching.map_examples(dataset, program._replace(example=example), read)
    return _read_elements(iter(dataset), len(files) * PASSES)


def _read_elements(stream: Iterator, count: int) -> Timed:
    """A call reads `count` elements from a stream that has started: the start takes as long as many images.

    The stream works in the background. The call waits until its buffers are full again, as they were before the call.
    """

    def run(first: int, calls: int) -> None:
        for _ in range(count * calls):
            next(stream)
        busy = True
        while busy:
            before = time.process_time()
            time.sleep(PAUSE)
            busy = time.process_time() - before > PAUSE / 100

    return run


def _increments(cumulated: dict[str, float]) -> dict[str, float]:
    """What each op adds to those before it, and what the total adds to all of them."""
    *ops, total = cumulated.items()
    increments, before = {}, 0.0
    for name, taken in ops:
        increments[name], before = taken - before, taken
    return increments | {"batches": total[1] - before, "total": total[1]}


class _Pillow:
    """The Pillow baseline, which measures the time of each of its stages."""

    def __init__(self, files: list[str], size: int, tokenizer_size: int):
        from beit_jax.benchmarks import pillow_baseline
        from beit_jax.models.pixel_statistics import STATISTICS

        self._files, self._source = files, random.Random(0)
        self._stages = pillow_baseline.stages(size, tokenizer_size, STATISTICS["imagenet"])
        self._seconds, self._images = dict.fromkeys(self._stages, 0.0), 0

    def __call__(self, first: int, calls: int) -> None:
        for path in self._files * calls:
            result: Any = path
            for name, stage in self._stages.items():
                start = time.process_time()
                result = stage(self._source, result)
                self._seconds[name] += time.process_time() - start
            self._images += 1

    def milliseconds(self) -> dict[str, float]:
        """Of each stage, the mean over all images."""
        return {name: taken / self._images * 1e3 for name, taken in self._seconds.items()}


def _lines(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"{figures['images']} JPEG files of 500x380, {figures['kilobytes']:.0f} kB each; ms of CPU an image, one core"
    ]
    for mode in (*MODES, "pil"):
        if mode not in figures:
            continue
        stages = dict(figures[mode])
        total = stages.pop("total")
        ratio = f", {figures['vs'][mode]:.2f} times pil" if mode in figures.get("vs", {}) else ""
        lines.append(f"  {mode:10s}{total:7.2f} ms, {1e3 / total:5.0f} images/s{ratio}")
        lines += [f"      {name:20s}{taken:7.2f}" for name, taken in stages.items()]
    return lines
