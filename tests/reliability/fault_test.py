"""Does to small runs what computers do to long ones, one after the other, and compares them with an undisturbed run.

  python tests/reliability/fault_test.py                  all trials, as root on Linux
  python tests/reliability/fault_test.py --only clock     those with this in their name

Signals, the memory limit of a control group, wrong clocks, a suspended process, images that change while they are
read, and limits of the shell. Prints a table in Markdown, with the last line of what the command said. Ends with
status 1 if a trial was not as expected. Trials that the system does not allow (no root, no libfaketime) are left out
and named.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fault_lab import SIZES, Lab, Started, UnexpectedError
from PIL import Image

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
TRIALS: dict[str, Callable[["Lab"], str]] = {}


def trial(name: str) -> Callable:
    """Registers a trial: a function of the lab that returns what the user saw."""
    return lambda function: TRIALS.setdefault(name, function)


@trial("suspended: SIGSTOP for 60 s, then SIGCONT")
def suspended(lab: Lab) -> str:
    """A second start meanwhile is refused."""
    run = lab.folder / "suspended"
    first = lab.train(run).wait_for(" 28/60 ").send(signal.SIGSTOP)
    began = time.monotonic()
    said = lab.train(run).end(2, says="is in use by process")
    time.sleep(max(0, 60 - (time.monotonic() - began)))
    first.send(signal.SIGCONT).end(0)
    if "no step for" in first.text:
        raise UnexpectedError("a false alarm of the watchdog")
    lab.check_same(run)
    return said


def with_clock(lab: Lab, run: Path, clock: str) -> Started:
    """Starts the run under another clock."""
    if not FAKETIME.exists():
        raise FileNotFoundError(f"{FAKETIME}: install libfaketime")
    return lab.train(run, LD_PRELOAD=str(FAKETIME), FAKETIME=clock, FAKETIME_DONT_FAKE_MONOTONIC="1")


def clocks(name: str, first: str, second: str) -> None:
    """Adds a trial: a run that is killed under one clock, and goes on under another."""

    @trial(f"clock: {name}")
    def both(lab: Lab) -> str:
        run = lab.folder / name.replace(" ", "_")
        with_clock(lab, run, first).wait_for(" 35/60 ").send(signal.SIGKILL).end(-signal.SIGKILL)
        last = with_clock(lab, run, second).end(0, says="continuing from step 30")
        lab.check_same(run)
        return last


clocks("ten years ahead, then the right time", "+10y", "+0")
clocks("before 1980, then an hour earlier", "@1975-06-01 12:00:00", "@1975-06-01 11:00:00")
clocks("an hour back between two starts", "+0", "-1h")


@trial("memory: another program fills the control group, and the kernel kills the run; then a restart")
def memory_group(lab: Lab) -> str:
    """The kernel chooses the run, which is the larger one."""
    run, group = lab.folder / "memory", MEMORY_GROUPS / f"beit_jax_{os.getpid()}"
    group.mkdir()
    enter = f"echo $$ > {group}/cgroup.procs"
    try:
        started = lab.train(run, before=["sh", "-c", f'{enter}; exec "$@"', "sh"]).wait_for(" 28/60 ")
        used = int((group / "memory.usage_in_bytes").read_text())
        (group / "memory.limit_in_bytes").write_text(str(used + (64 << 20)))
        hungry = f"{enter}; exec {sys.executable} -c 'bytes(1 << 29)'"
        subprocess.run(["sh", "-c", hungry], check=False)
        said = started.end(-signal.SIGKILL)
    finally:
        time.sleep(1)
        group.rmdir()
    lab.train(run).end(0, says="continuing from step")
    lab.check_same(run)
    return said


def data_change(name: str, change: Callable[[Path], None], status: int, says: str, same: bool) -> None:
    """Adds a trial: images that change after the first steps."""

    @trial(f"data: {name}")
    def changed(lab: Lab) -> str:
        run, images = lab.folder / name.replace(" ", "_"), lab.folder / f"{name.replace(' ', '_')}_images"
        shutil.copytree(lab.images, images)
        started = lab.train(run, images).wait_for(" 7/60 ")
        change(images)
        said = started.end(status, says=says)
        if same:
            lab.check_same(run)
        warnings = [line for line in started.text.splitlines() if "cannot read" in line]
        return (warnings or [said])[0] if not status else said


def _other_size(images: Path) -> None:
    for path in (images / "train" / "a").iterdir():
        Image.new("RGB", (50, 30)).save(path)


def _empty(images: Path) -> None:
    (images / "train" / "a" / "007.png").write_bytes(b"")


data_change("the folder is renamed", lambda images: images.rename(images.with_name("away")), 2, "cannot be read", False)
data_change("a class is removed", lambda images: shutil.rmtree(images / "train" / "b"), 2, "cannot be read", False)
data_change("one image is deleted", lambda images: (images / "train" / "a" / "007.png").unlink(), 0, "007.png", False)
data_change("one image is emptied", _empty, 0, "007.png", False)
data_change("images of another size", _other_size, 0, "", False)


def shell_limit(name: str, shell: str, says: str) -> None:
    """Adds a trial: a run under a limit of the shell either ends with one line, or is as the undisturbed one."""

    @trial(f"shell: {name}")
    def limited(lab: Lab) -> str:
        run = lab.folder / name.replace(" ", "_")
        started = lab.train(run, before=["sh", "-c", f'{shell}; exec "$@"', "sh"])
        said = started.end(0, 2, says=says)
        if started.process.returncode == 0:
            lab.check_same(run)
        return said


shell_limit("ulimit -n 64", "ulimit -n 64", "")
shell_limit("ulimit -n 256", "ulimit -n 256", "")
shell_limit("umask 077", "umask 077", "report: ")
shell_limit("TMPDIR missing", "export TMPDIR=/nonexistent", "report: ")
shell_limit("compile cache read-only", "export JAX_COMPILATION_CACHE_DIR=/proc/none", "report: ")


def signals(name: str, number: int, statuses: Sequence[int], reached: str, module: str, arguments: Callable) -> None:
    """Adds a trial: a command is stopped at a moment, and repeated; its files are those of an undisturbed command."""

    @trial(f"signal: {signal.Signals(number).name} in {name}")
    def stopped(lab: Lab) -> str:
        folder = lab.folder / f"{name}_{number}".replace(" ", "_")
        files = []
        for kind in ("whole", "stopped"):
            out = folder / kind
            out.mkdir(parents=True)
            if kind == "stopped":
                said = lab.start(module, *arguments(lab, out)).wait_for(reached).send(number).end(*statuses)
            lab.start(module, *arguments(lab, out)).end(0)
            paths = sorted(path for path in out.rglob("*") if path.is_file() and ".part-" not in path.name)
            files.append({str(path.relative_to(out)): path.read_bytes() for path in paths})
        if files[0] != files[1]:
            raise UnexpectedError("the files differ from those of an undisturbed command")
        return said


def _predict(lab: Lab, out: Path) -> list[object]:
    return [f"--checkpoint={lab.undisturbed}", "--images", lab.images, f"--out={out}/table.csv", "--batch_size=4"]


def _embed(lab: Lab, out: Path) -> list[object]:
    sizes = ["--batch_size=4", "--shard_size=8"]
    return [f"--checkpoint={lab.undisturbed}", "--images", lab.images, f"--out={out}/features.npz", *sizes]


def _tokenize(lab: Lab, out: Path) -> list[object]:
    return ["--config=configs/pretrain.py:runlocal", *SIZES, "--config.steps=250", f"--out={out}/tokens"]


def run_signals(moment: str, number: int, status: int, reached: str) -> None:
    """Adds a trial: a run is stopped at a moment, and started again."""

    @trial(f"signal: {signal.Signals(number).name} in {moment}")
    def stopped(lab: Lab) -> str:
        run = lab.folder / f"{moment}_{number}".replace(" ", "_")
        said = lab.train(run).wait_for(reached).send(number).end(status)
        lab.train(run).end(0)
        lab.check_same(run)
        if not (run / "report.html").exists():
            raise UnexpectedError(f"{run} has no report")
        return said


for _number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
    _status = 130 if _number == signal.SIGINT else -_number
    signals("predict", _number, [_status], "images", "predict", _predict)
    signals("embed", _number, [_status], "images", "embed", _embed)
    signals("tokenize_dataset", _number, [_status], " steps of ", "tokenize_dataset", _tokenize)
    # Between two phases of a run, SIGTERM saves what there is.
    _status = 0 if _number == signal.SIGTERM else _status
    run_signals("an evaluation", _number, _status, " 30/60  grad_norm")
    run_signals("the report of a run", _number, _status, " 60/60  eval")


def main() -> int:
    """Makes the trials; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="trials with this in their name")
    parser.add_argument("--folder", help="folder of the runs (a temporary one)")
    settings = parser.parse_args()
    lab, failed = Lab(Path(settings.folder or tempfile.mkdtemp())), False
    print("| what was done | as expected | what was said last |\n| --- | --- | --- |", flush=True)
    for name, make in TRIALS.items():
        if settings.only not in name:
            continue
        try:
            good, said = "yes", make(lab)
        except UnexpectedError as unexpected:
            good, said, failed = "NO", str(unexpected), True
        except (OSError, subprocess.CalledProcessError) as error:
            good, said = "left out", str(error)
        print(f"| {name} | {good} | {said} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
