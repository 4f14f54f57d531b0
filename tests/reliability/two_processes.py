"""Harms one of two processes at each phase of a run, and tells how the other one ended and what was left behind.

  python tests/reliability/two_processes.py --faults SIGKILL SIGSTOP PAUSE SIGTERM raise

A fault is a signal that a process sends to itself; PAUSE is SIGSTOP, and SIGCONT 15 s later; `raise` is an exception.
A function of the library, which begins the phase, is wrapped for it. The phases follow each other in one workdir: each
run continues what the one before it left behind, from its newest checkpoint, and the last one ends without a fault. A
run that comes to its end earlier is compared, and removed. All have the settings of real runs, except for two limits:
of silence (`--silence`, in place of 100 s), and for all to start (`--start`, in place of 600 s). The processes are
forked from one that has imported the libraries.

Prints a table in Markdown, a row when it is known. Ends with status 1 if a process did not end, did not say which one
is gone, or did not continue from the newest checkpoint, or if the numbers of a run that was continued differ in any
bit from those of an uninterrupted one.
"""

import argparse
import concurrent.futures
import importlib
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess as Process
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CONFIG = dict(steps=12, batch_size=8, log_every=2, save_every=4, eval_every=4, keep=2, num_masked=12)
OPS = "decode|resize(image_size)|normalize(statistics)"
MASKED = f"{OPS}|blockwise_mask(num_masked, min_block, grid)|keep('image', 'mask')"
DATA = dict(split="train[:32]", eval_split="test[:16]", ops=MASKED, eval_ops=MASKED)
BY_PROCESS_0 = ("saving: before the commit", "saving: checksums")  # process 1 does neither
AT_THE_END = ("at the last barrier", "disconnecting")  # a run that has finished comes there too
PAUSE_S = 15.0
LIMIT_S = 300.0
NOT_COMPARED = ("examples_per_second", "input_wait")

# Where each phase begins: what is wrapped, which of its calls is meant, and whether the fault follows the call.
PHASES = {
    "before it is connected": ("beit_jax.runtime.membership.start", 1, False),
    "agreeing on the config": ("beit_jax.runtime.agreement.check_agreement", 1, False),
    "opening the data": ("beit_jax.train._build", 1, False),
    "agreeing on the data": ("beit_jax.runtime.agreement.check_agreement", 2, False),
    "initializing": ("beit_jax.training.initialize.starting_state", 1, False),
    "compiling": ("beit_jax.training.loop._Run._compile", 1, False),
    "training": ("beit_jax.training.loop._Run._after_step", 3, False),
    "saving: arrays": ("beit_jax.training.checkpoint_manager.Checkpoints.save", 1, True),
    "saving: before the commit": ("orbax.checkpoint._src.path.atomicity.on_commit_callback", 1, False),
    "saving: checksums": ("beit_jax.runtime.checksums.write_checksums", 1, False),
    "evaluating": ("beit_jax.training.evaluation.Evaluator.run", 1, False),
    "nearest neighbours": ("beit_jax.evals.feature_evaluation.FeatureEvaluation.__call__", 1, False),
    "restoring": ("beit_jax.training.checkpoint_manager.Checkpoints.restore", 1, False),
    "after the last step": ("beit_jax.training.loop._Run.train", 1, True),
    "at the last barrier": ("beit_jax.runtime.membership.finish", 1, False),
    "disconnecting": ("jax.distributed.shutdown", 1, False),
}
FAULTS = ("SIGKILL", "SIGSTOP", "PAUSE", "SIGTERM", "raise")


class Trial(NamedTuple):
    """What all runs have in common."""

    folder: Path
    silence: float
    start: int
    expected: list[dict]


def harm(kind: str) -> None:
    """Does it to this process."""
    print(f"FAULT {kind}", flush=True)
    if kind == "raise":
        raise ZeroDivisionError("made by the test")
    os.kill(os.getpid(), signal.SIGSTOP if kind == "PAUSE" else getattr(signal, kind))


def wrap(target: str, call: int, after: bool, kind: str) -> None:
    """Replaces a function, so that one of its calls begins, or ends, with the fault."""
    module, names = re.fullmatch(r"((?:\w+\.)*?[a-z]\w*)\.((?:_?[A-Z]\w*\.)?\w+)", target).groups()
    of, _, name = names.rpartition(".")
    owner = getattr(importlib.import_module(module), of) if of else importlib.import_module(module)
    original: Callable[..., Any] = getattr(owner, name)
    calls = itertools.count(1)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        now = next(calls) == call
        if now and not after:
            harm(kind)
        result = original(*args, **kwargs)
        if now and after:
            harm(kind)
        return result

    setattr(owner, name, wrapped)


def be_a_process(index: int, address: str, workdir: Path, trial: Trial, fault: tuple[str, str] | None) -> None:
    """What one of the processes does; its output is in a file beside the workdir."""
    from beit_jax import command, train
    from beit_jax.runtime import cluster, preemption, sign_of_life

    with open(f"{workdir}.{index}", "wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    for name, value in zip(cluster.VARIABLES, (address, "2", str(index)), strict=True):
        os.environ[name] = value
    sys.argv[1:] = [f"--config={trial.folder}/config.json", f"--workdir={workdir}"]
    preemption.handle_signals()
    sign_of_life.SILENCE_S, cluster.START_TIMEOUT_S = trial.silence, trial.start
    if fault:
        wrap(*PHASES[fault[0]], fault[1])
    command.run(train.main)


def start(workdir: Path, trial: Trial, harmed: int = 0, fault: tuple[str, str] | None = None) -> list[Process]:
    """Starts both processes."""
    forked = multiprocessing.get_context("forkserver")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    processes = []
    for index in range(2):
        Path(f"{workdir}.{index}").write_bytes(b"")
        own = fault if index == harmed else None
        processes.append(forked.Process(target=be_a_process, args=(index, address, workdir, trial, own)))
        processes[-1].start()
    return processes


def log(workdir: Path, index: int) -> str:
    """What a process has printed."""
    return Path(f"{workdir}.{index}").read_text(errors="replace")


def numbers(workdir: Path) -> list[dict]:
    """The metrics that a run wrote, without times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in NOT_COMPARED} for line in lines]


def wait(processes: list[Process], limit_s: float = LIMIT_S) -> bool:
    """Waits until all have ended; kills those that have not in time, and returns False then."""
    deadline = time.monotonic() + limit_s
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    return not late


def observe(workdir: Path, trial: Trial, harmed: int, fault: tuple[str, str]) -> tuple[str, str, bool]:
    """Runs with a fault; returns when and how the other process ended, its last line, and whether both is in order."""
    processes = start(workdir, trial, harmed, fault)
    phase, kind = fault
    deadline = time.monotonic() + LIMIT_S
    while "FAULT" not in log(workdir, harmed):
        if time.monotonic() > deadline or not any(process.is_alive() for process in processes):
            wait(processes, 0)
            return "the fault did not happen", log(workdir, harmed)[-300:].replace("\n", " "), False
        time.sleep(0.02)
    began = time.monotonic()
    if kind == "PAUSE":
        time.sleep(PAUSE_S)
        os.kill(processes[harmed].pid, signal.SIGCONT)
    ends = [processes[1 - harmed]] if kind == "SIGSTOP" else processes
    in_time = wait(ends)
    seconds = time.monotonic() - began
    wait(processes, 0)
    status, text = processes[1 - harmed].exitcode, last_line(log(workdir, 1 - harmed))
    if not in_time:
        return f"not in {LIMIT_S:.0f} s", text, False
    if phase == "before it is connected" and kind != "PAUSE":
        good = status == 2 and ("did not find each other" in text or f"process {harmed} cannot be reached" in text)
    elif kind in ("PAUSE", "SIGTERM") or phase in AT_THE_END:
        good = status == 0 or f"process {harmed} " in text
        good &= kind not in ("PAUSE", "SIGTERM") or status == 0 == processes[harmed].exitcode
    else:
        good = status in (1, 2) and f"process {harmed} " in text
    return f"{seconds:.0f} s, {status}", text, good


def last_line(text: str) -> str:
    """The line that says why a process ended."""
    said = [line for line in text.splitlines() if re.match("error: |warning: .* after all had|.*stopped by", line)]
    last = said[-1] if said else "a stack trace" if "Traceback" in text else ""
    return last.replace(socket.gethostname(), "HOST").replace("|", "/")


def newest(workdir: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    folder = workdir / "checkpoints"
    return max((int(path.name) for path in folder.glob("*") if path.name.isdigit()), default=0)


def left_behind(workdir: Path, trial: Trial) -> tuple[str, bool]:
    """What a run has left behind, and whether a run that has finished has the expected numbers."""
    if not (workdir / "result.json").exists():
        return f"step {newest(workdir)}" if newest(workdir) else "nothing", True
    equal = numbers(workdir) == trial.expected
    return f"all, {'equal' if equal else 'NOT EQUAL'} bit for bit", equal


def follow(trial: Trial, harmed: int, kind: str, phases: list[str]) -> int:
    """One fault of one process at all phases, one after the other; returns how many rows are wrong."""
    workdir, wrong = trial.folder / f"{kind}{harmed}", 0
    shutil.rmtree(workdir, ignore_errors=True)
    for phase in [*phases, "without a fault"]:
        if harmed == 1 and phase in BY_PROCESS_0:
            continue
        if (workdir / "result.json").exists() and phase not in AT_THE_END:
            if phase == "without a fault":
                break
            shutil.rmtree(workdir)
        step = newest(workdir)
        if phase == "without a fault":
            processes = start(workdir, trial)
            ended, said, good = "", "", wait(processes) and not any(process.exitcode for process in processes)
        else:
            ended, said, good = observe(workdir, trial, harmed, (phase, kind))
        continued = re.search(r"continuing from step (\d+)|starting from scratch", log(workdir, 0))
        good &= not continued or int(continued[1] or 0) == step
        left, equal = left_behind(workdir, trial)
        good &= equal
        wrong += not good
        mark = "" if good else "**wrong** "
        print(f"| {phase} | {harmed} | {kind} | {mark}{ended} | {said} | {left} |", flush=True)
        if not good:
            for index in range(2):
                shutil.copy(f"{workdir}.{index}", trial.folder / f"wrong {kind} {phase} {harmed}.{index}")
    return wrong


def prepare(trial: Trial) -> Trial:
    """Writes the config, and makes the uninterrupted run."""
    from beit_jax import config as configs

    config = configs.defaults("pretrain_pixels")
    configs.set_source(config, "digits")
    config.update(CONFIG)
    config.data.update(DATA)
    config.model.update(dict(variant="Micro/4", image_size=16))
    config.optimizer.update(dict(lr=1e-3, warmup="2 steps"))
    config.evals.update(dict(kinds=("knn",), k=3, ops=f"{OPS}|keep('image', 'label')"))
    (trial.folder / "config.json").write_text(configs.to_json(config))
    workdir = trial.folder / "uninterrupted"
    if not (workdir / "result.json").exists():
        processes = start(workdir, trial)
        if not wait(processes) or any(process.exitcode for process in processes):
            sys.exit(log(workdir, 0) + log(workdir, 1))
    return trial._replace(expected=numbers(workdir))


def main() -> int:
    """Runs everything; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--phases", nargs="+", choices=list(PHASES), default=list(PHASES), metavar="PHASE")
    parser.add_argument("--processes", nargs="+", type=int, choices=(0, 1), default=[0, 1])
    parser.add_argument("--silence", type=float, default=20.0, help="seconds after which a process is taken for dead")
    parser.add_argument("--start", type=int, default=40, help="seconds in which all processes must start")
    parser.add_argument("--jobs", type=int, default=1, help="how many pairs of processes run at the same time")
    parser.add_argument("--folder", help="of the runs (a temporary one)")
    settings = parser.parse_args()
    folder = Path(settings.folder or tempfile.mkdtemp()).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    heavy = ["beit_jax.train", "beit_jax.experiment", "beit_jax.training.loop", "tensorflow"]
    multiprocessing.get_context("forkserver").set_forkserver_preload([*heavy, "beit_jax.visualize.report"])
    trial = prepare(Trial(folder, settings.silence, settings.start, []))
    print("| phase | process | fault | the other one ended after, with status | and said | left behind |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    with concurrent.futures.ThreadPoolExecutor(settings.jobs) as pool:
        chains = itertools.product(settings.faults, settings.processes)
        wrong = pool.map(lambda chain: follow(trial, chain[1], chain[0], settings.phases), chains)
        return int(sum(wrong) > 0)


if __name__ == "__main__":
    sys.exit(main())
