"""Draws configs of the smallest and oddest values, trains each for a few steps, and reports what is a fault.

    python tests/reliability/extremes.py --minutes 15 --seed 0

A config has one to four keys at the boundary of their range, or far beyond it. It must either be trained, with finite
numbers in all files, or be refused with messages of one line each. A run whose loss or gradient is not finite ends with
one line, too. Everything else is a fault: another exception, a warning of NumPy, a number that is not finite, or more
than three minutes. Faults are printed with the settings that repeat them: `--only TASK FOLDER KEY=VALUE ...`.
"""

import argparse
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[1]))
import jax
from batches import random_values
from boundaries import LEFT_ALONE, boundaries
from odd_folders import make_folders

from beit_jax import config as configs
from beit_jax import train
from beit_jax.benchmarks.synthetic import synthetic_batch, synthetic_masks
from beit_jax.config.durations import in_steps
from beit_jax.config.schema import declared_keys, durations_in_steps
from beit_jax.errors import UserError
from beit_jax.experiment import Experiment, Lengths
from beit_jax.tasks import create_task
from beit_jax.training.evaluation import Evaluator
from beit_jax.training.metrics_window import MetricsWindow
from beit_jax.training.sharding import to_devices

TASKS = ("tokenizer", "pretrain", "pretrain_pixels", "classify", "probe", "segment")
SLOWEST = 180  # seconds for one config, on a machine that does other work too
NOT_FINITE = "not finite|is (nan|inf|-inf) between"
MOST_STEPS = 6  # of a run that is trained; longer ones are only built
MOST_MEMORY = 12 << 30


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
        config.evals.ops = f"decode|resize(image_size){end}|keep('image', 'label')"
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


def draw_settings(draw: random.Random, task: str, config: ConfigDict) -> list[str]:
    """Some `KEY=VALUE`."""
    keys = {name: boundaries(name, key) for name, key in declared_keys(config).items() if name not in LEFT_ALONE}
    names = draw.sample([name for name, values in keys.items() if values], draw.choice((1, 2, 2, 3, 4)))
    if task == "segment" and "model.head=upernet" not in names and draw.random() < 0.3:
        return [f"{name}={draw.choice(keys[name])}" for name in names] + [
            "model.head=upernet",
            "model.layers=(0,0,1,1)",
        ]
    return [f"{name}={draw.choice(keys[name])}" for name in names]


class SlowError(Exception):
    """A config took too long."""


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises SlowError in its block after some time."""

    def ring(*_: Any) -> None:
        raise SlowError(f"more than {seconds} s")

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
    end = time.monotonic() + 60 * arguments.minutes
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
        if outcome == "FAULT" or arguments.verbose or arguments.only:
            command = " ".join(map(repr, [task, folder, *settings]))
            print(f"{outcome} in {time.monotonic() - start:.1f} s: --only {command}\n{more}\n", flush=True)
        if arguments.only:
            print(*(f"{name}: {value}" for name, value in read(workdir).items()), sep="\n")
            break
    print(f"{outcomes.total()} configs: {dict(outcomes)}")
    if not arguments.keep:
        shutil.rmtree(root)
    return 1 if outcomes["FAULT"] else 0


def read(workdir: Path) -> dict[str, str]:
    """The numbers of a run."""
    return {
        file: (workdir / file).read_text() for file in ("metrics.jsonl", "result.json") if (workdir / file).exists()
    }


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
