"""Draws configs of the smallest and oddest values, trains each for a few steps, and reports what is a fault.

    python tests/reliability/extremes.py --minutes 15 --seed 0

A config has one to four keys at the boundary of their range, or far beyond it. It must either be trained, with finite
numbers in all files, or be refused with messages of one line each. A run whose loss or gradient is not finite ends with
one line, too. Everything else is a fault: another exception, a warning of NumPy, a number that is not finite, three minutes
for two steps. Faults are printed with the settings that repeat them: `--only TASK FOLDER KEY=VALUE ...`.
"""

import argparse
import ast
import collections
import contextlib
import io
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
import jax
from batches import random_values

from beit_jax import config as configs
from beit_jax import train
from beit_jax.benchmarks.synthetic import synthetic_batch, synthetic_masks
from beit_jax.config.durations import in_steps
from beit_jax.config.keys import Key
from beit_jax.config.schema import declared_keys, durations_in_steps
from beit_jax.errors import UserError
from beit_jax.experiment import Experiment, Lengths
from beit_jax.tasks import create_task
from beit_jax.training.evaluation import Evaluator
from beit_jax.training.metrics_window import MetricsWindow
from beit_jax.training.sharding import to_devices

TASKS = ("tokenizer", "pretrain", "pretrain_pixels", "classify", "probe", "segment")
SLOWEST = 180  # seconds for one config, on a machine that does other work too
NOT_FINITE = "not finite|is nan|is inf|is -inf"
MOST_STEPS = 6  # of a run that is trained; longer ones are only built
MOST_MEMORY = 12 << 30

ENDS = ("nan", "inf", "-inf", "1e400", "-0.0", "0", "-1", "1", "2", "1e-50", "1e-39", "1e-7", "0.999", "0.99999999999")
ENDS += ("1e30", "1e38", "1e300", "2147483647", "2147483648", "4294967296", str(2**63), str(2**64), str(10**30))
# Where boundaries follow from no range.
OF_KEY: dict[str, tuple[str, ...]] = {
    "model.variant": ("4x1x1/4", "4x2x4/4", "1x1x1/4", "8x1x8/8", "6x3x1/2", "8x4x2/1", "0x1x1/4", "8x1x1/0"),
    "model.image_size": ("1", "4", "8", "12", "16", "0", "7"),
    "model.layers": ("()", "(0,)", "(0,0,0,0)", "(1,)", "(nan,)", "(-1,)", "(True,)", "(1e400,)"),
    "model.num_classes": ("0", "1", "2", "3", "1000"),
    "model.dtype": ("float32", "bfloat16", "auto", "float16"),
    "model.remat": ("none", "full", "nothing_saveable"),
    "model.unroll": ("1", "2", "1000", "2147483647"),
    "model.vocab": ("1", "2", "3"),
    "model.hidden": ("1", "2", "3", "4"),
    "model.groups": ("1", "2", "3", "8"),
    "model.decoder_init": ("1", "2"),
    "tokenizer.vocab": ("1", "2"),
    "tokenizer.hidden": ("1", "3", "4"),
    "tokenizer.groups": ("1", "2"),
    "layers": ("()", "(1,)", "(2,)", "(1,1)", "(0,)", "(True,)"),
    "batch_size": ("1", "2", "3", "4", "1000"),
    "steps": ("0", "1", "2", "2147483647"),
    "epochs": ("0", "0.001", "0.3", "1", "1e-9", "1e9"),
    "num_masked": ("0", "1", "3", "4", "15", "16", "17"),
    "seed": ("0", "-1", "2147483647", "2147483648", str(2**32), str(2**63), str(2**64)),
    "optimizer.warmup": ("", "0 steps", "1 step", "2 steps", "3 steps", "0%", "50%", "100%", "1 epoch", "999999999999 epochs"),
    "optimizer.schedule": ("cosine", "linear", "cosine_by_epoch", "cosine, 1 step", "linear, 1%", "cosine, 999999999999 epochs"),
    "optimizer.betas": ("(0,0)", "(0.0,0.99999999999)", "(0.999999999,0.5)", "(nan,0.9)", "(-0.0,0.9)", "(1e-300,1e-300)"),
    "optimizer.accumulate": ("1", "2", "4", "8"),
    "loss.kl_warmup": ("", "0 steps", "1 step", "100%"),
    "loss.annealing": ("", "0 steps", "1 step", "999999999999 steps"),
    "data.labels": ("all", "1 per class", "2 per class", "50%", "1%", "0 per class", "100%"),
    "data.split": ("train", "train[:1]", "train[:0]", "train[:2]", "validation"),
    "data.eval_split": ("train", "validation", "validation[:1]", "validation[:0]", "train[:1]"),
    "data.repeats": ("1", "2", "3", "1000", "2147483647"),
    "inference.ratios": ("(1.0,)", "()", "(1e-9,)", "(0.1,2.0)", "(nan,)", "(1e9,)"),
    "inference.stride": ("0", "1", "7", "8", "9"),
    "inference.short_side": ("0", "1", "8", "9"),
    "inference.long_side": ("0", "1", "8", "32"),
    "inference.label_side": ("1", "8", "20", "32", "2147483647"),
    "knn.k": ("0", "1", "3", "1000", "2147483647"),
    "cutmix": ("0", "1e-50", "1e-7", "0.3", "1", "1e30"),
    "mixup": ("0", "1e-50", "1e-7", "0.3", "1", "1e30"),
    "mix_group": ("2", "3", "4", "2147483647"),
    "mesh.data": ("-1", "0", "1", "2", "3"),
    "mesh.fsdp": ("-1", "1", "2", "3"),
    "mesh.tensor": ("-1", "1", "2", "1000"),
    "mesh.slices": ("-1", "1", "2", "3"),
    "log_every": ("1", "0", "3", "2147483647"),
    "save_every": ("1", "0", "2147483647"),
    "eval_every": ("1", "0", "2147483647"),
    "keep": ("1", "0", "2147483647"),
}
LEFT_ALONE = ("task", "labels", "init_from", "init_optional", "resume_from", "tokens", "knn.ops", "model.kind")
LEFT_ALONE += ("tokenizer.kind", "tokenizer.init_from", "encoder.init_from", "data.source", "data.data_dir", "data.ops")
LEFT_ALONE += ("data.eval_ops", "data.statistics", "device_augment")


def make_folders(root: Path) -> dict[str, list[str]]:
    """Folders of images by what they are for: classes, or label maps."""
    draw = np.random.default_rng(0)

    def images(name: str, splits: Mapping[str, Mapping[str, int]], size: tuple[int, int] = (9, 13), flat: bool = False):
        for split, classes in splits.items():
            for label, count in classes.items():
                folder = root / name / split / label
                folder.mkdir(parents=True)
                for index in range(count):
                    pixels = np.full((*size, 3), 128) if flat else draw.integers(0, 256, (*size, 3))
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")

    images("usual", {"train": dict(a=4, b=3, c=3), "validation": dict(a=2, b=1, c=2)})
    images("one", {"train": dict(a=1), "validation": dict(a=1)})
    images("one_class", {"train": dict(a=5), "validation": dict(a=3)})
    images("one_each", {"train": dict(a=1, b=1, c=1), "validation": dict(b=1)})
    images("pixel", {"train": dict(a=2, b=2), "validation": dict(a=1, b=1)}, (1, 1))
    images("flat", {"train": dict(a=3, b=3), "validation": dict(a=1, b=2)}, flat=True)
    images("line", {"train": dict(a=2, b=3), "validation": dict(a=1)}, (1, 40))

    def pairs(name: str, maps: Sequence[np.ndarray]) -> None:
        for split in ("train", "validation"):
            for kind in ("images", "annotations"):
                (root / name / kind / split).mkdir(parents=True)
            for index, labels in enumerate(maps):
                Image.fromarray(labels.astype(np.uint8)).save(root / name / "annotations" / split / f"{index}.png")
                pixels = draw.integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name / "images" / split / f"{split}{index}.png")
                os.rename(
                    root / name / "annotations" / split / f"{index}.png",
                    root / name / "annotations" / split / f"{split}{index}.png",
                )

    pairs("pairs", [draw.integers(0, 3, (10, 14)) for _ in range(6)])
    pairs("pairs_flat", [np.full((9, 9), index % 2) for index in range(5)])
    pairs("pairs_one_class", [np.zeros((9, 20)) for _ in range(4)])
    pairs("pairs_void", [np.full((9, 9), 255), *[np.full((9, 9), 255) for _ in range(3)]])
    pairs("pairs_almost_void", [np.full((9, 9), 255), np.pad(np.zeros((1, 1)), 4, constant_values=255)] * 2)
    pairs("pairs_pixel", [np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1))])
    pairs("pairs_one", [np.array([[0, 1]])])
    classes = ["usual", "one", "one_class", "one_each", "pixel", "flat", "line"]
    labelled = ["pairs", "pairs_flat", "pairs_one_class", "pairs_void", "pairs_almost_void", "pairs_pixel", "pairs_one"]
    return {"classes": classes, "pairs": labelled}


def small(task: str, folder: str) -> ConfigDict:
    """A config of the task that trains two steps of two images in a few seconds."""
    config = configs.defaults(task)
    config.batch_size, config.steps, config.log_every, config.eval_every, config.save_every = 2, 2, 1, 1, 1
    config.optimizer.update(dict(lr=1e-3, warmup="1 step"))
    config.data.update(dict(source=f"folder:{folder}", max_bad_fraction=0.5))
    end, mask = "|normalize('inception')", "random_mask(num_masked, grid)"
    sizes = dict(vocab=8, hidden=4, groups=2, blocks_per_group=1, decoder_init=4)
    if task == "tokenizer":
        config.model.update(sizes | dict(image_size=8))
        ops = "decode|resize(image_size)|map_pixels('image')|keep('image')"
    else:
        config.model.update(dict(variant="8x2x2/4", image_size=16, drop_path=0.1))
        ops = f"decode|resize(image_size){end}|keep('image', 'label')"
    if task == "pretrain":
        config.tokenizer.update(sizes | dict(init_from="random"))
        ops = f"decode|two_views_center(image_size, tokenizer_size, 1.0){end}|map_pixels('tokenizer_image')|{mask}"
        ops += "|keep('image', 'tokenizer_image', 'mask')"
    if task == "pretrain_pixels":
        ops = f"decode|resize(image_size){end}|{mask}|keep('image', 'mask')"
    if task in ("pretrain", "pretrain_pixels", "probe"):
        config.knn.ops = f"decode|resize(image_size){end}|keep('image', 'label')"
    if task == "probe":
        config.encoder.init_from = "random"
    if task == "segment":
        config.model.update(dict(head="setr_pup", channels=4, auxiliary_channels=4, layers=(0,), image_size=8))
        config.inference.update(dict(short_side=8, long_side=16, label_side=24))
        ops = f"decode|random_ratio_resize(image_size, 4 * image_size)|random_segment_crop(image_size, 1.0){end}"
        config.data.ops = f"{ops}|pad_to(image_size, image_size)|keep('image', 'label_map')"
        config.data.eval_ops = (
            f"decode|resize_within(canvas_short, canvas_long){end}|pad_for_evaluation(canvas_short, canvas_long, "
            "label_canvas)|keep('image', 'label_map', 'size', 'label_size')"
        )
    else:
        config.data.ops = config.data.eval_ops = ops
    return config


def boundaries(name: str, key: Key) -> list[str]:
    """The values that are tried for a key."""
    if name in OF_KEY:
        numbers = ("nan", "inf", "1e400", str(10**30)) if isinstance(key.default, int | float) else ()
        return [*OF_KEY[name], *OF_KEY[name], *numbers]
    if key.choices:
        return [str(choice) for choice in key.choices]
    if isinstance(key.default, bool):
        return ["true", "false"]
    if not isinstance(key.default, int | float):
        return []
    limits = [str(limit) for limit in (key.at_least, key.above, key.at_most, key.below) if limit is not None]
    values = [*ENDS, *limits, *limits]
    return [value for value in values if value.lstrip("-").isdecimal()] * 2 if isinstance(key.default, int) else values


def draw_settings(draw: random.Random, task: str, config: ConfigDict) -> list[str]:
    """Some `KEY=VALUE`."""
    keys = {name: boundaries(name, key) for name, key in declared_keys(config).items() if name not in LEFT_ALONE}
    names = draw.sample([name for name, values in keys.items() if values], draw.choice((1, 2, 2, 3, 4)))
    if task == "segment" and "model.head=upernet" not in names and draw.random() < 0.3:
        return [f"{name}={draw.choice(keys[name])}" for name in names] + ["model.head=upernet", "model.layers=(0,0,1,1)"]
    return [f"{name}={draw.choice(keys[name])}" for name in names]


class Slow(Exception):
    """A config took too long."""


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises Slow in its block after some time."""

    def ring(*_: Any) -> None:
        raise Slow(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def attempt(task: str, folder: Path, settings: Sequence[str], workdir: Path, whole: bool) -> tuple[str, str]:
    """What became of a config: an outcome, and more about it; trained as a user does, or on random batches."""
    output = io.StringIO()
    try:
        with time_limit(SLOWEST), contextlib.redirect_stdout(output), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            config = small(task, str(folder))
            configs.override(config, [f"--config.{setting}" for setting in settings])
            configs.validate(config)
            if whole and (config.steps > MOST_STEPS or config.epochs > 1):
                experiments = train._build({task: config}, {task: workdir}, workdir)
                train._describe_data(experiments)
                train._print_overview(experiments, "--config.")
                return "built", ""
            if whole:
                train.train(config, workdir)
            else:
                train_alone(config, workdir)
    except UserError as error:
        if any("\n" in line or not line for line in error.lines):
            return "FAULT", f"a message of several lines: {error}"
        return "stopped" if re.search(NOT_FINITE, str(error)) else "refused", str(error)
    except Exception as error:
        return "FAULT", f"{type(error).__name__}: {str(error)[:300]}\n" + "".join(traceback.format_exc()[-1800:])
    if problem := (whole and wrong_numbers(workdir)) or ("nan" in output.getvalue().split() and "nan is printed"):
        return "FAULT", problem
    told = [str(warning.message) for warning in caught if issubclass(warning.category, RuntimeWarning)]
    return ("FAULT", f"warned: {told[0]}") if told else ("trained", "")


def train_alone(config: ConfigDict, workdir: Path) -> None:
    """Trains and evaluates on random batches, without the input pipeline and without files.

    Raises:
      UserError: as a run raises it.
      ValueError: a number that is not finite.
    """
    if not config.model.get("num_classes", 1):
        config.model.num_classes = 3
    config.steps, config.epochs = min(config.steps or max(1, round(config.epochs * 5)), MOST_STEPS), 0.0
    total = config.steps
    lengths = Lengths(total, in_steps(config.optimizer.warmup, 5, total), 0, 5)
    config = durations_in_steps(config, 5, total)
    experiment = Experiment(config, workdir, create_task(config), lengths)
    experiment.check_batch()
    experiment.check_replicated()
    experiment.check_memory()
    task, window = experiment.task, MetricsWindow(config.max_bad_steps)
    with jax.set_mesh(experiment.mesh):
        state, step = experiment.fresh_state(), experiment.trace_step().lower().compile()
        for index in range(total):
            batch = synthetic_batch(config, task)
            state, metrics = step(
                state, experiment.frozen, to_devices(experiment.mesh, batch), experiment.random_keys[1]
            )
            window.add(metrics)
            line = window.next_line(index + 1, None)
            rate = float(experiment.learning_rate(index))
            if not all(map(math.isfinite, [*line.values(), rate])):
                raise ValueError(f"{line}, {rate}")
        if task.caches_features or "label_size" in task.eval_spec(1):
            return
        batch = random_values(task.eval_spec(config.batch_size), task)
        for name in set(batch) & {"mask"}:
            batch[name] = synthetic_masks(config, np.random.default_rng(0), batch[name].shape)
        size = config.batch_size
        batch |= {"valid": np.arange(size) < max(size - 1, 1), "index": np.arange(size, dtype=np.int32)}
        values, tables = Evaluator(task, experiment.mesh).run(state.params, experiment.frozen, [batch])
        if not all(map(math.isfinite, values.values())) or "nan" in str(tables).lower().replace("nano", ""):
            raise ValueError(f"{values}, {tables}")


def wrong_numbers(workdir: Path) -> str:
    """What in the files of a run is no finite number; empty: nothing."""

    def refuse(text: str) -> float:
        raise ValueError(f"{text} is written")

    try:
        result = json.loads((workdir / "result.json").read_text(), parse_constant=refuse)
        for line in (workdir / "metrics.jsonl").read_text().splitlines():
            json.loads(line, parse_constant=refuse)
        if not result:
            return "result.json is empty"
        for file in (*workdir.glob("tables/*.csv"), workdir / "parameters.txt"):
            if any(word.lower() in ("nan", "inf", "-inf") for word in file.read_text().replace(",", " ").split()):
                return f"{file.name} holds nan or inf"
        report = (workdir / "report.html").read_text().lower()
        if ">nan" in report or " nan" in report or ">inf<" in report:
            return "nan in report.html"
    except (ValueError, OSError) as error:
        return f"{error}"
    return ""


def main(arguments: argparse.Namespace) -> int:
    """Tries configs until the time is over; the exit status says whether there was a fault."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY * 3, MOST_MEMORY * 3))
    root = Path(tempfile.mkdtemp(prefix="extremes-"))
    folders, draw, outcomes = make_folders(root), random.Random(arguments.seed), collections.Counter()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "compiled"))
    end, refusals = time.monotonic() + 60 * arguments.minutes, collections.Counter()
    while time.monotonic() < end:
        task = draw.choice(arguments.tasks)
        folder = draw.choice(folders["pairs" if task == "segment" else "classes"])
        settings = draw_settings(draw, task, small(task, folder))
        if arguments.only:
            task, folder, *settings = arguments.only
        workdir = root / "run"
        shutil.rmtree(workdir, ignore_errors=True)
        start = time.monotonic()
        whole = bool(arguments.only) or draw.random() < arguments.whole
        outcome, more = attempt(task, root / folder, settings, workdir, whole)
        outcomes[outcome] += 1
        refusals[more.split("=")[0][:60]] += outcome == "refused"
        if outcome == "FAULT" or arguments.verbose or arguments.only:
            print(f"{outcome} in {time.monotonic() - start:.1f} s: --only {task} {folder} {' '.join(map(repr, settings))}\n{more}\n", flush=True)
        if arguments.only:
            print(*(f"{name}: {value}" for name, value in read(workdir).items()), sep="\n")
            break
    print(f"{outcomes.total()} configs: {dict(outcomes)}")
    if not arguments.keep:
        shutil.rmtree(root)
    return 1 if outcomes["FAULT"] else 0


def read(workdir: Path) -> dict[str, str]:
    """The numbers of a run."""
    return {file: (workdir / file).read_text() for file in ("metrics.jsonl", "result.json") if (workdir / file).exists()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="one config: task, folder, settings")
    parser.add_argument("--whole", type=float, default=0.3, help="fraction of runs with input pipeline and files")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--keep", action="store_true")
    sys.exit(main(parser.parse_args()))
