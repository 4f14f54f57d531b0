"""Kills a small run repeatedly, and compares it with an uninterrupted run.

  python tests/reliability/kill_test.py --kills 25 --terms 10
  python tests/reliability/kill_test.py --kills 25 --terms 0 --bucket --failing 0.05

Sends SIGKILL at random moments (every third one while a checkpoint is being written) and SIGTERM at random moments from
1.5 s after the start (before, it ends Python itself), and damages the newest checkpoint in several ways. After each
failure the same command runs again. Prints a table in Markdown. Ends with status 1 if a run did not resume, or if its
numbers differ from those of the uninterrupted run in any bit.

With --bucket, the workdirs lie in a bucket on loopback, no checkpoint is damaged, and --failing is the fraction of
requests that the store refuses.
"""

import argparse
import contextlib
import functools
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

from beit_jax.runtime.checkpoint_folder import COMMITTED, own_checkpoints
from beit_jax.runtime.paths import as_path
from beit_jax.runtime.urls import is_bucket

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "buckets"))
import object_store  # noqa: E402, after the path that leads to it

NOT_COMPARED = ("examples_per_second", "input_wait")
STEPS = 150
SETTINGS = [f"--config.steps={STEPS}", "--config.log_every=7", "--config.save_every=9", "--config.eval_every=50"]
SETTINGS += ["--config.keep=3", "--config.batch_size=8"]


def command(workdir: Path) -> list[str]:
    """The command of the run, the same at every start."""
    config = f"--config={ROOT}/configs/pretrain.py:runlocal"
    return [sys.executable, "-m", "beit_jax.train", config, f"--workdir={workdir}", *SETTINGS]


def log_of(workdir: Path) -> Path:
    """The file of the output of a run: beside its workdir, or, of one in a bucket, among temporary files."""
    if not is_bucket(workdir):
        return workdir.with_suffix(".log")
    folder = Path(tempfile.gettempdir(), "beit_jax_kill_test")
    folder.mkdir(exist_ok=True)
    return folder / f"{workdir.name}-{os.getpid()}.log"


def start(workdir: Path) -> subprocess.Popen:
    """Starts the run; appends its output to a file beside the workdir."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    with log_of(workdir).open("a") as log:
        return subprocess.Popen(command(workdir), cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def numbers(workdir: Path) -> list[dict]:
    """The metrics that the run wrote, without times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in NOT_COMPARED} for line in lines]


def steps(workdir: Path) -> list[int]:
    """The steps of the complete checkpoints."""
    return sorted(int(path.name) for path in own_checkpoints(workdir))


def being_written(workdir: Path, since: float) -> bool:
    """Whether a checkpoint is being written that was begun after a time, and so not left by an earlier kill."""
    if is_bucket(workdir):
        times: dict[str, dict[str, float]] = {}
        for name, facts in (workdir / "checkpoints").objects().items():
            times.setdefault(name.partition("/")[0], {})[name] = facts["mtime"].timestamp()
        open_steps = [written for step, written in times.items() if f"{step}/{COMMITTED}" not in written]
        return any(max(written.values()) > since for written in open_steps)
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
    log = log_of(workdir)
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
    parser.add_argument("--bucket", action="store_true", help="workdirs in a bucket")
    parser.add_argument("--failing", type=float, default=0.0, help="fraction of the bucket's requests that fail")
    parser.add_argument("--folder", help="folder of the runs (a temporary one)")
    settings = parser.parse_args()
    folder = Path(settings.folder or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    if not settings.bucket:
        return try_all(folder, folder, settings)
    with object_store.serve() as store:
        os.environ |= store.environment()
        store.failing = settings.failing
        status = try_all(as_path("gs://beit"), folder, settings)
        print(f"{len(store.requests)} requests, {sum(request.status == 503 for request in store.requests)} refused")
        return status


def try_all(folder: Path, here: Path, settings: argparse.Namespace) -> int:
    """Runs everything with workdirs in a folder, and files of this machine in another one; returns the status."""
    # Every start after the first one finds its programs compiled, as a continued run does.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(here / "compiled"))
    began = time.monotonic()
    uninterrupted = folder / "uninterrupted"
    if start(uninterrupted).wait():
        print(log_of(uninterrupted).read_text())
        return 1
    seconds, table = time.monotonic() - began, []
    began = time.monotonic()
    (uninterrupted.rmtree if is_bucket(uninterrupted) else functools.partial(shutil.rmtree, uninterrupted))()
    if start(uninterrupted).wait():
        return 1
    seconds = time.monotonic() - began
    print(f"uninterrupted: {STEPS} steps in {seconds:.0f} s, with compiled programs", file=sys.stderr)
    table += signals(folder, "SIGKILL", settings.kills, random.Random(settings.seed), seconds)
    table += signals(folder, "SIGTERM", settings.terms, random.Random(settings.seed + 1), seconds)
    table += [] if settings.bucket else damaged(folder)
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
            text = log_of(workdir).read_text()
            if name == "SIGTERM" and "is saved; run the same" in text.rstrip().splitlines()[-1]:
                reported = int(text.rstrip().rpartition(" at step ")[2].partition(",")[0])
                lost += steps(workdir)[-1] != reported
            resumed += 1
            print(f"{name} {sent}: {moment}, status {status}, checkpoints {steps(workdir)}", file=sys.stderr)
        last = start(workdir).wait()
        if last:
            resumed -= 1
            print(log_of(workdir).read_text()[-3000:], file=sys.stderr)
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
        text = log_of(workdir).read_text()
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
    refused = status == 2 and "none of the checkpoints" in log_of(workdir).read_text()
    kept = steps(workdir) == before
    return [*table, ("all checkpoints damaged: an error, no file deleted", 1, int(refused), kept, "not resumed")]


if __name__ == "__main__":
    sys.exit(main())
