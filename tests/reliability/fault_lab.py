"""A folder of small runs, and commands in it that are started, watched and stopped; `fault_test.py` uses it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from kill_test import NOT_COMPARED, ROOT
from PIL import Image

OPS = "decode|resize(image_size)|normalize(statistics)|keep('image', 'label')"
SIZES = [f"--config.{text}" for text in ("batch_size=8", "steps=60", "log_every=7", "save_every=10", "eval_every=30")]
CLASSIFY = [*SIZES, "--config.model.num_classes=3", "--config.mixup=0", "--config.cutmix=0"]
CLASSIFY += [f"--config.data.ops={OPS}", f"--config.data.eval_ops={OPS}", "--config.data.eval_split=validation"]
LIMIT_S = 1800  # for a command, on a machine that others use too


class UnexpectedError(Exception):
    """A trial had another outcome than expected."""


class Started:
    """A command that runs; its output goes to a file."""

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str]):
        self._log, self._deadline = log, time.monotonic() + LIMIT_S
        with log.open("w") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)

    @property
    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, reached: str | Callable[[], object]) -> "Started":
        """Returns when a text was printed, or a condition holds."""
        holds = (lambda: reached in self.text) if isinstance(reached, str) else reached
        while not holds():
            if self.process.poll() is not None or time.monotonic() > self._deadline:
                raise UnexpectedError(f"it ended before {reached}: {self.text[-500:]}")
            time.sleep(0.02)
        return self

    def send(self, number: int) -> "Started":
        self.process.send_signal(number)
        return self

    def end(self, *statuses: int, says: str = "") -> str:
        """The last line, once the command has ended with one of these statuses and said something."""
        try:
            status = self.process.wait(max(self._deadline - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise UnexpectedError(f"it does not end: {self.text[-500:]}") from None
        if status not in statuses or says not in self.text or "Traceback" in self.text:
            raise UnexpectedError(f"status {status}: {self.text[-1500:]}")
        return (self.text.strip().splitlines() or [""])[-1]


class Lab:
    """The folder of all trials, with images, an undisturbed run, and one compile cache."""

    def __init__(self, folder: Path):
        self.folder, self.images, self.undisturbed = folder, folder / "images", folder / "undisturbed"
        self.environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "PYTHONPATH": str(ROOT),
        }
        if not self.images.exists():
            make_images(self.images)
        if not (self.undisturbed / "result.json").exists():
            self.train(self.undisturbed).end(0)

    def start(self, module: str, *arguments: object, before: Sequence[str] = (), **environment: str) -> Started:
        """Starts a command of beit_jax; `before` are words that start it, such as `faketime`."""
        self._number = getattr(self, "_number", 0) + 1
        command = [*before, sys.executable, "-m", f"beit_jax.{module}", *map(str, arguments)]
        log = self.folder / f"{os.getpid()}_{self._number}.log"
        return Started(command, log, self.environment | environment)

    def train(self, workdir: Path, images: Path | None = None, *more: str, **how: object) -> Started:
        """Starts the small run of a classifier."""
        source = f"--config.data.source=folder:{images or self.images}"
        return self.start(
            "train", "--config=configs/finetune.py:runlocal", source, *CLASSIFY, *more, f"--workdir={workdir}", **how
        )

    def check_same(self, workdir: Path) -> None:
        """Compares the numbers of a run with those of the undisturbed one, bit for bit."""
        for read in (numbers, lambda run: json.loads((run / "result.json").read_text())):
            if read(workdir) != read(self.undisturbed):
                raise UnexpectedError(f"the numbers of {workdir} differ from those of the undisturbed run")


def numbers(workdir: Path) -> list[dict]:
    """The metrics that a run wrote, without times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in NOT_COMPARED} for line in lines]


def make_images(root: Path) -> None:
    """A folder of 300 images in three classes that are easily told apart."""
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("validation", 60)):
        for number, name in enumerate("abc"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 80, (16, 16, 3)) + number * 80
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{index:03}.png")
