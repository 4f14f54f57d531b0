"""Harms one of two processes at each phase of a run, and tells how the other one ended and what a restart did.

  python tests/reliability/two_processes.py --faults SIGKILL SIGSTOP PAUSE SIGTERM raise

A fault is a signal that a process sends to itself; PAUSE is SIGSTOP, and SIGCONT 15 s later; `raise` is an exception.
This script is also the command of each process: it wraps a function of the library, which begins the phase. Processes
that are silent are given up after `--silence` seconds, in place of 100. After a fault both processes are started again.
Prints a table in Markdown. Ends with status 1 if a process did not end, said nothing, or if the numbers of the
continued run differ in any bit from those of an uninterrupted one.
"""

import argparse
import importlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
SETTINGS = ["--config.steps=12", "--config.log_every=2", "--config.save_every=4", "--config.eval_every=4"]
SETTINGS += ["--config.data.split=train[:64]", "--config.data.eval_split=test[:32]"]
SETTINGS += ["--config.batch_size=16", "--config.keep=2", "--config.knn.k=3"]
SETTINGS += ["--config.knn.ops=decode|resize(image_size)|normalize(statistics)|keep('image', 'label')"]
BY_PROCESS_0 = ("saving: before the commit", "saving: checksums")  # process 1 does neither
PAUSE_S = 15.0
LIMIT_S = 600.0
NOT_COMPARED = ("examples_per_second", "input_wait")

# Where each phase begins: what is wrapped, which of its calls is meant, and whether the fault follows the call.
PHASES = {
    "before it is connected": ("beit_jax.runtime.distributed.start", 1, False),
    "agreeing on the config": ("beit_jax.runtime.agreement.check_agreement", 1, False),
    "opening the data": ("beit_jax.train._build", 1, False),
    "agreeing on the data": ("beit_jax.runtime.agreement.check_agreement", 2, False),
    "initializing or restoring": ("beit_jax.training.initialize.starting_state", 1, False),
    "compiling": ("beit_jax.training.loop._Run._compile", 1, False),
    "training": ("beit_jax.training.loop._Run._after_step", 7, False),
    "saving: arrays": ("beit_jax.training.checkpoint_manager.Checkpoints.save", 2, True),
    "saving: before the commit": ("orbax.checkpoint._src.path.atomicity.AtomicRenameTemporaryPath.finalize", 2, False),
    "saving: checksums": ("beit_jax.runtime.checksums.write_checksums", 2, False),
    "evaluating": ("beit_jax.training.evaluation.Evaluator.run", 2, False),
    "nearest neighbours": ("beit_jax.evals.knn.Knn.__call__", 2, False),
    "after the last step": ("beit_jax.training.loop._Run.train", 1, True),
    "at the last barrier": ("beit_jax.runtime.distributed.finish", 1, False),
    "disconnecting": ("jax.distributed.shutdown", 1, False),
}
FAULTS = ("SIGKILL", "SIGSTOP", "PAUSE", "SIGTERM", "raise")


class Fault(NamedTuple):
    """What happens to which process, and when."""

    phase: str
    process: int
    kind: str


def harm(kind: str) -> None:
    """Does it to this process."""
    print(f"FAULT {kind} {time.time():.3f}", flush=True)
    if kind == "raise":
        raise ZeroDivisionError("made by the test")
    os.kill(os.getpid(), signal.SIGSTOP if kind == "PAUSE" else getattr(signal, kind))


def wrap(target: str, call: int, after: bool, kind: str) -> None:
    """Replaces a function, so that one of its calls begins, or ends, with the fault."""
    path, calls = target.split("."), itertools.count(1)
    depth = next(
        n for n in range(len(path), 0, -1) if importlib.util.find_spec(".".join(path[:1])) and _module(path[:n])
    )
    owner = _module(path[:depth])
    for name in path[depth:-1]:
        owner = getattr(owner, name)
    original: Callable[..., Any] = getattr(owner, path[-1])

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        now = next(calls) == call
        if now and not after:
            harm(kind)
        result = original(*args, **kwargs)
        if now and after:
            harm(kind)
        return result

    setattr(owner, path[-1], wrapped)


def _module(path: list[str]) -> Any:
    try:
        return importlib.import_module(".".join(path))
    except ModuleNotFoundError:
        return None


def be_a_process(fault: str, silence: float, arguments: list[str]) -> None:
    """The command of one process."""
    from beit_jax import command, train
    from beit_jax.runtime import preemption, sign_of_life

    sys.argv[1:] = arguments
    preemption.handle_signals()
    sign_of_life.SILENCE_S = silence
    phase, _, kind = fault.partition("/")
    if kind:
        wrap(*PHASES[phase], kind)
    command.run(train.main)


def start(workdir: Path, silence: float, fault: Fault | None = None) -> list[subprocess.Popen]:
    """Starts both processes; their output is in files beside the workdir."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = []
    for index in range(2):
        own = {"BEIT_JAX_COORDINATOR": f"127.0.0.1:{port}", "BEIT_JAX_PROCESS_COUNT": "2"}
        own |= {"BEIT_JAX_PROCESS_INDEX": str(index), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
        harmed = f"{fault.phase}/{fault.kind}" if fault and fault.process == index else ""
        command = [sys.executable, __file__, "--be", f"{harmed}", str(silence)]
        command += [f"--config={ROOT}/configs/pretrain.py:runlocal", f"--workdir={workdir}", *SETTINGS]
        with open(f"{workdir}.{index}", "w") as log:
            processes.append(
                subprocess.Popen(command, cwd=ROOT, env=os.environ | own, stdout=log, stderr=subprocess.STDOUT)
            )
    return processes


def log(workdir: Path, index: int) -> str:
    """What a process has printed."""
    return Path(f"{workdir}.{index}").read_text(errors="replace")


def numbers(workdir: Path) -> list[dict]:
    """The metrics that a run wrote, without times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in NOT_COMPARED} for line in lines]


def wait(processes: list[subprocess.Popen], limit_s: float = LIMIT_S) -> bool:
    """Waits until all have ended; kills those that have not in time, and returns False then."""
    deadline = time.monotonic() + limit_s
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    in_time = all(process.poll() is not None for process in processes)
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    return in_time


def observe(workdir: Path, fault: Fault, silence: float) -> tuple[str, str, bool]:
    """Runs with a fault; returns when and how the other process ended, its last line, and whether both is in order."""
    processes = start(workdir, silence, fault)
    harmed, other = processes[fault.process], processes[1 - fault.process]
    deadline = time.monotonic() + LIMIT_S
    while "FAULT" not in log(workdir, fault.process):
        if time.monotonic() > deadline or all(process.poll() is not None for process in processes):
            wait(processes, 0)
            return "the fault did not happen", log(workdir, 0)[-300:], False
        time.sleep(0.02)
    began = time.time()
    if fault.kind == "PAUSE":
        time.sleep(PAUSE_S)
        harmed.send_signal(signal.SIGCONT)
    in_time = wait([other] if fault.kind == "SIGSTOP" else processes)
    seconds = time.time() - began
    wait([harmed], 0)
    said = [line for line in log(workdir, 1 - fault.process).splitlines() if "error: " in line or "stopped by" in line]
    text = said[-1] if said else "Traceback" if "Traceback" in log(workdir, 1 - fault.process) else ""
    ended = f"{seconds:.0f} s, {other.returncode}" if in_time else f"not in {LIMIT_S:.0f} s"
    named = f"process {fault.process} " in text or (not text and other.returncode == 0) or "stopped by" in text
    good = named or (fault.kind == "SIGTERM" and other.returncode == 0)
    return ended, text.replace(socket.gethostname(), "HOST").replace("|", "/"), in_time and good


def restart(workdir: Path, expected: list[dict], silence: float) -> tuple[str, str]:
    """Starts both again; returns from where they continued, and whether the numbers are those expected."""
    processes = start(workdir, silence)
    if not wait(processes) or any(process.returncode for process in processes):
        return "did not end well: " + log(workdir, 0)[-200:], "NO"
    text = log(workdir, 0)
    if "finished before" in text or ("continuing from" not in text and "starting from" not in text):
        resumed = "the end"
    else:
        resumed = f"step {text.partition('continuing from step ')[2].partition(';')[0]}" * ("continuing" in text)
    return resumed or "the start", "yes" if numbers(workdir) == expected else "NO"


def main() -> int:
    """Runs everything; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--phases", nargs="+", choices=list(PHASES), default=list(PHASES), metavar="PHASE")
    parser.add_argument("--processes", nargs="+", type=int, choices=(0, 1), default=[0, 1])
    parser.add_argument("--silence", type=float, default=20.0, help="seconds after which a process is taken for dead")
    parser.add_argument("--folder", help="of the runs (a temporary one)")
    settings = parser.parse_args()
    folder = Path(settings.folder or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    uninterrupted = folder / "uninterrupted"
    if not (uninterrupted / "result.json").exists():
        processes = start(uninterrupted, settings.silence)
        if not wait(processes) or any(process.returncode for process in processes):
            print(log(uninterrupted, 0), log(uninterrupted, 1))
            return 1
    expected, wrong = numbers(uninterrupted), 0
    print(
        "| phase | process | fault | the other one ended after, with status | and said | restarted from | same bits |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for number, fault in enumerate(itertools.product(settings.phases, settings.processes, settings.faults)):
        fault = Fault(*fault)
        if fault.process == 1 and fault.phase in BY_PROCESS_0:
            continue
        workdir = folder / f"run{number}"
        shutil.rmtree(workdir, ignore_errors=True)
        ended, said, good = observe(workdir, fault, settings.silence)
        resumed, same = restart(workdir, expected, settings.silence)
        wrong += not good or same != "yes"
        mark = "" if good else " **wrong**"
        print(
            f"| {fault.phase} | {fault.process} | {fault.kind} | {ended}{mark} | {said} | {resumed} | {same} |",
            flush=True,
        )
    return int(wrong > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--be"]:
        be_a_process(sys.argv[2], float(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(main())
