"""Kills a small run repeatedly, and compares it with an uninterrupted run.

  python tests/reliability/kill_test.py --kills 25 --terms 10

Sends SIGKILL at random moments (every third one while a checkpoint is being written) and SIGTERM at random moments from
1.5 s after the start (before, it ends Python itself), and damages the newest checkpoint in several ways. After each
failure the same command runs again. Prints a table in Markdown. Ends with status 1 if a run did not resume, or if its
numbers differ from those of the uninterrupted run in any bit.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_COMPARED = ("examples_per_second", "input_wait")
STEPS = 150
SETTINGS = [f"--config.steps={STEPS}", "--config.log_every=7", "--config.save_every=9", "--config.eval_every=50"]
SETTINGS += ["--config.keep=3", "--config.batch_size=8"]


def command(workdir: Path) -> list[str]:
    """The command of the run, the same at every start."""
    config = f"--config={ROOT}/configs/pretrain.py:runlocal"
    return [sys.executable, "-m", "beit_jax.train", config, f"--workdir={workdir}", *SETTINGS]


def start(workdir: Path) -> subprocess.Popen:
    """Starts the run; appends its output to a file beside the workdir."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    with workdir.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command(workdir), cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def numbers(workdir: Path) -> list[dict]:
    """The metrics that the run wrote, without times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in NOT_COMPARED} for line in lines]


def steps(workdir: Path) -> list[int]:
    """The steps of the complete checkpoints."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def being_written(workdir: Path, since: float) -> bool:
    """Whether a checkpoint is being written that was begun after a time, and so not left by an earlier kill."""
    for path in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime > since:
                return True
    return False


def wait(process: subprocess.Popen, until: Callable[[], bool]) -> bool:
    """Waits until a condition holds; returns whether it did before the run ended."""
    while process.poll() is None:
        if until():
            return True
        time.sleep(0.0005)
    return False


def interrupt(workdir: Path, number: int, rng: random.Random, seconds: float, writing: bool) -> tuple[str, int | None]:
    """Starts the run and sends it a signal; returns the moment and the status, None if the run ended before."""
    log = workdir.with_suffix(".log")
    written = log.stat().st_size if log.exists() else 0
    process, delay = start(workdir), rng.uniform(1.5 if number == signal.SIGTERM else 0.05, seconds)
    began = time.time()
    alive = wait(process, lambda: time.time() - began > delay)
    if writing:
        alive = wait(process, lambda: being_written(workdir, began))
        time.sleep(rng.uniform(0, 0.02))
    moment = "while a checkpoint was written" if being_written(workdir, began) else "while it trained or evaluated"
    if "compiled in" not in log.read_text()[written:]:
        moment = "before it trained"
    if not alive:
        process.wait()
        return "after the end", None
    process.send_signal(number)
    return moment, process.wait()


def damages() -> dict[str, Callable[[Path], None]]:
    """Ways to damage a checkpoint, by name."""

    def largest(folder: Path) -> Path:
        return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)

    def flip(folder: Path) -> None:
        file = largest(folder / "params")
        content = bytearray(file.read_bytes())
        for position in range(len(content) // 2, min(len(content) // 2 + 16, len(content))):
            content[position] ^= 255
        file.write_bytes(content)

    def half(folder: Path) -> None:
        for path in sorted(folder.rglob("*"))[::2]:
            if path.is_file():
                path.unlink(missing_ok=True)

    return {
        "a file truncated": lambda folder: os.truncate(largest(folder), largest(folder).stat().st_size // 2),
        "a file deleted": lambda folder: largest(folder).unlink(),
        "a file emptied": lambda folder: os.truncate(largest(folder), 0),
        "16 bytes flipped": flip,
        "half of the files missing": half,
        "optimizer state missing": lambda folder: shutil.rmtree(folder / "state"),
        "an empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    }


def main() -> int:
    """Runs everything; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--terms", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="folder of the runs (a temporary one)")
    settings = parser.parse_args()
    folder = Path(settings.folder or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    # Every start after the first one finds its programs compiled, as a continued run does.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    began = time.monotonic()
    uninterrupted = folder / "uninterrupted"
    if start(uninterrupted).wait():
        print((folder / "uninterrupted.log").read_text())
        return 1
    seconds, table = time.monotonic() - began, []
    began = time.monotonic()
    shutil.rmtree(uninterrupted)
    if start(uninterrupted).wait():
        return 1
    seconds = time.monotonic() - began
    print(f"uninterrupted: {STEPS} steps in {seconds:.0f} s, with compiled programs", file=sys.stderr)
    table += signals(folder, "SIGKILL", settings.kills, random.Random(settings.seed), seconds)
    table += signals(folder, "SIGTERM", settings.terms, random.Random(settings.seed + 1), seconds)
    table += damaged(folder)
    print("| failure | times | resumed | numbers equal bit for bit | |\n| --- | --- | --- | --- | --- |")
    for what, times, resumed, same, more in table:
        print(f"| {what} | {times} | {resumed} | {'yes' if same else 'NO'} | {more} |")
    return 0 if all(resumed == times and same for _, times, resumed, same, _ in table) else 1


def signals(folder: Path, name: str, times: int, rng: random.Random, seconds: float) -> list[tuple]:
    """Sends a signal `times` times, to as many runs as needed."""
    moments: dict[str, int] = {}
    sent, resumed, runs, same, lost, good = 0, 0, 0, True, 0, 0
    while sent < times:
        runs += 1
        workdir, ended = folder / f"{name.lower()}{runs}", False
        while sent < times and not ended:
            moment, status = interrupt(
                workdir, getattr(signal, name), rng, seconds, name == "SIGKILL" and sent % 3 == 2
            )
            ended = status is None
            if ended:
                break
            sent, moments[moment] = sent + 1, moments.get(moment, 0) + 1
            good += status == (-signal.SIGKILL if name == "SIGKILL" else 0)
            text = workdir.with_suffix(".log").read_text()
            if name == "SIGTERM" and "is saved; run the same" in text.rstrip().splitlines()[-1]:
                reported = int(text.rstrip().rpartition(" at step ")[2].partition(",")[0])
                lost += steps(workdir)[-1] != reported
            resumed += 1
            print(f"{name} {sent}: {moment}, status {status}, checkpoints {steps(workdir)}", file=sys.stderr)
        last = start(workdir).wait()
        if last:
            resumed -= 1
            print(workdir.with_suffix(".log").read_text()[-3000:], file=sys.stderr)
        same &= not last and numbers(workdir) == numbers(folder / "uninterrupted")
    summary = ", ".join(f"{count} {moment}" for moment, count in sorted(moments.items()))
    more = f"; {good} ended with status 0, {lost} lost a step" if name == "SIGTERM" else ""
    return [(name, sent, resumed, same and good == sent and not lost, f"{summary}; {runs} runs{more}")]


def damaged(folder: Path) -> list[tuple]:
    """Damages the newest checkpoint in each way; then all checkpoints."""
    table, uninterrupted = [], folder / "uninterrupted"
    for number, (what, damage) in enumerate(damages().items()):
        workdir = folder / f"damaged{number}"
        shutil.copytree(uninterrupted, workdir)
        (workdir / "result.json").unlink()
        newest = steps(workdir)[-1]
        damage(workdir / "checkpoints" / str(newest))
        status = start(workdir).wait()
        text = workdir.with_suffix(".log").read_text()
        resumed = f"set aside as {newest}.broken" in text or "continuing from step" in text
        aside = (workdir / "checkpoints" / f"{newest}.broken").is_dir()
        same = status == 0 and numbers(workdir) == numbers(uninterrupted)
        table.append(
            (f"newest checkpoint: {what}", 1, int(status == 0 and resumed), same, "set aside" if aside else "")
        )
        print(*table[-1], file=sys.stderr)
    workdir = folder / "all_damaged"
    shutil.copytree(uninterrupted, workdir)
    (workdir / "result.json").unlink()
    before = steps(workdir)
    for step in before:
        shutil.rmtree(workdir / "checkpoints" / str(step) / "state")
    status = start(workdir).wait()
    refused = status == 2 and "none of the checkpoints" in workdir.with_suffix(".log").read_text()
    kept = steps(workdir) == before
    return [*table, ("all checkpoints damaged: an error, no file deleted", 1, int(refused), kept, "not resumed")]


if __name__ == "__main__":
    sys.exit(main())
