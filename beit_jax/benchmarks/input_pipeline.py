"""The input of pre-training on one core: milliseconds of a processor an image, op by op and as a whole.

JPEG files of about 500x380 pixels, made of scikit-image's photographs, go through the ops of configs/pretrain.py in its
official and in its fast mode; with --vs pil through the official transform in Pillow too, in turns.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beit_jax import cli
from beit_jax import config as configs
from beit_jax.benchmarks.masks import on_one_core, positive
from beit_jax.benchmarks.timing import Contestant, in_turns
from beit_jax.errors import UserError

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry")
QUALITY = 94
MODES = {"official": "", "fast": ":fast"}
BATCH = 32
PASSES = 8  # of a turn of whole pipelines, which are a few batches ahead
PAUSE = 0.3  # seconds


def main(argv: Sequence[str]) -> None:
    """`python -m beit_jax.benchmark input`, with the arguments behind that name."""
    parser = cli.Parser(prog="python -m beit_jax.benchmark input", description=__doc__)
    parser.add_argument("--config", default="configs/pretrain.py", help="file with the argument fast")
    parser.add_argument(
        "--images", type=positive, default=64, help="files (default 64), all of which are read in a turn"
    )
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each, of which the median is told")
    parser.add_argument("--vs", choices=["pil"], help="run the official transform in Pillow in turns with ours")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    settings = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        made = make_files(Path(folder), settings.images)
        found = measure(settings.config, Path(folder), settings.images, settings.rounds, settings.vs)
    found |= {"images": settings.images, "kilobytes": made, "unit": "milliseconds of CPU per image"}
    for line in _lines(found):
        print(line)
    if settings.json:
        print(json.dumps(found))


def make_files(folder: Path, count: int) -> float:
    """JPEG files of 500x380 or 380x500 pixels, cut at random out of photographs; returns their mean size in kB.

    Raises UserError without scikit-image.
    """
    from PIL import Image

    try:
        from skimage import data
    except ImportError:
        raise UserError("the images are made of scikit-image's photographs; run: pip install scikit-image") from None
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
      for each mode `{op: ms, ..., "batches": ms, "whole": ms}`: what each op on single images adds to those before it,
      what all else takes, and everything through `data.pipeline`; with `vs`, `pil` likewise by its stages, and `vs`,
      how many times as fast as it each mode is as a whole.

    Raises:
      UserError: the config does not have the modes, or the files cannot be read.
    """
    from beit_jax.data import pipeline  # before TensorFlow, which it keeps quiet

    sections = {mode: configs.load(f"{config}{argument}") for mode, argument in MODES.items()}
    on_one_core()
    contestants: dict[tuple[str, str], Contestant] = {}
    files = sorted(map(str, folder.iterdir()))
    for mode, section in sections.items():
        data = section.data
        data.source, data.split, data.max_bad_fraction = f"folder:{folder}", "train", 0.0
        for name, ops in _prefixes(data.ops):
            contestants[mode, name] = _over_examples(ops, files)
        batch = min(BATCH, count)
        stream = pipeline.make_train(data, seed=0, batch_size=batch)
        contestants[mode, "whole"] = _drawn(stream, PASSES * count // batch)
    if vs:
        sizes = sections["official"].model.image_size, sections["official"].tokenizer.image_size
        pillow = _Pillow(files, *sizes)
        contestants["pil", "whole"] = pillow
    seconds = in_turns(list(contestants.values()), rounds, calls=1, clock=time.process_time)
    cumulated: dict[str, dict[str, float]] = {}
    for (mode, name), taken in zip(contestants, seconds, strict=True):
        seen = count if mode == "pil" else PASSES * count // batch * batch if name == "whole" else PASSES * count
        cumulated.setdefault(mode, {})[name] = taken / seen * 1e3
    found = {mode: _increments(cumulated[mode]) for mode in MODES}
    if vs:
        found["pil"] = pillow.milliseconds() | cumulated["pil"]
        found["vs"] = {mode: cumulated["pil"]["whole"] / cumulated[mode]["whole"] for mode in MODES}
    return found


def _prefixes(ops: str) -> list[tuple[str, str]]:
    """The ops on single images: the name of each, and the ops up to it."""
    from beit_jax.data import preprocessing

    names = preprocessing.names_on_examples(ops)
    parts = ops.split("|")
    return [(name, "|".join(parts[: place + 1])) for place, name in enumerate(names)]


def _over_examples(ops: str, files: list[str]) -> Contestant:
    """Reads each file and runs the ops on it; of the pixels one is looked at."""
    import tensorflow as tf

    from beit_jax.data import pipeline, preprocessing

    program = preprocessing.build(ops)

    def read(place: tf.Tensor, path: tf.Tensor) -> preprocessing.Features:
        return {"image": tf.io.read_file(path), pipeline.SEED: tf.stack([tf.constant(0, tf.int64), place])}

    def example(features: preprocessing.Features, seed: tf.Tensor) -> preprocessing.Features:
        features = program.example(features, seed)
        return {key: features[key][0, 0, 0] for key in features if key.endswith("image")}

    dataset = tf.data.Dataset.from_tensor_slices(files).repeat().enumerate()
    return _drawn(iter(pipeline.on_examples(dataset, program._replace(example=example), read)), len(files) * PASSES)


def _drawn(stream: Iterator, count: int) -> Contestant:
    """Takes `count` elements in a turn, from a stream that began before: starting one takes as long as many images.

    It works in the background, and is waited for until its buffers are full again, as they were before the turn.
    """

    def run(first: int, turns: int) -> None:
        for _ in range(count * turns):
            next(stream)
        busy = True
        while busy:
            before = time.process_time()
            time.sleep(PAUSE)
            busy = time.process_time() - before > PAUSE / 100

    return run


def _increments(cumulated: dict[str, float]) -> dict[str, float]:
    """What each op adds to those before it, and what the whole adds to them all."""
    *ops, whole = cumulated.items()
    found, before = {}, 0.0
    for name, total in ops:
        found[name], before = total - before, total
    return found | {"batches": whole[1] - before, "whole": whole[1]}


class _Pillow:
    """A contestant that keeps account of its stages."""

    def __init__(self, files: list[str], size: int, tokenizer_size: int):
        from beit_jax.benchmarks import pillow_baseline
        from beit_jax.models.pixel_statistics import STATISTICS

        self._files, self._source = files, random.Random(0)
        self._stages = pillow_baseline.stages(size, tokenizer_size, STATISTICS["imagenet"])
        self._seconds, self._seen = dict.fromkeys(self._stages, 0.0), 0

    def __call__(self, first: int, turns: int) -> None:
        for path in self._files * turns:
            made: Any = path
            for name, stage in self._stages.items():
                start = time.process_time()
                made = stage(self._source, made)
                self._seconds[name] += time.process_time() - start
            self._seen += 1

    def milliseconds(self) -> dict[str, float]:
        """Of each stage, the mean over all images seen."""
        return {name: taken / self._seen * 1e3 for name, taken in self._seconds.items()}


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['images']} JPEG files of 500x380, {found['kilobytes']:.0f} kB each; ms of CPU an image, one core"]
    for mode in (*MODES, "pil"):
        if mode not in found:
            continue
        stages, whole = dict(found[mode]), found[mode]["whole"]
        del stages["whole"]
        ratio = f", {found['vs'][mode]:.2f} times pil" if mode in found.get("vs", {}) else ""
        lines.append(f"  {mode:10s}{whole:7.2f} ms, {1e3 / whole:5.0f} images/s{ratio}")
        lines += [f"      {name:20s}{taken:7.2f}" for name, taken in stages.items()]
    return lines
