"""Counts what a run asks of the bucket that holds its workdir: for a step, a line of the log, a checkpoint, and in all.

  python tests/buckets/count_requests.py

Runs the smallest pre-training seven times: once to prepare and compile, once to compare with, and then with one number
changed at a time. Prints the differences as a table in Markdown. Writes and lists are what a store calls class A, and
reads class B; deleting costs nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

import object_store

ROOT = Path(__file__).resolve().parents[2]
BASE = {"steps": 60, "log_every": 10, "save_every": 20, "eval_every": 60, "keep": 9, "batch_size": 8}
CHANGES = {  # what is counted: how many more of it, and the keys that make it so
    "step": (600, {"steps": 660, "log_every": 110, "save_every": 220, "eval_every": 660}),
    "line of the log": (6, {"log_every": 5}),
    "checkpoint": (3, {"save_every": 10}),
    "evaluation": (1, {"eval_every": 30}),
    "run of the same again": (1, {}),  # by how much two runs differ
}
FOLLOWS_TIME = ("/lock", "/tensorboard/", "/metrics.jsonl")  # made by threads every few seconds


def measure(store: object_store.Store, name: str, keys: dict[str, int]) -> dict[str, list[int]]:
    """`{"writes and lists": [requests, bytes], "reads": ..., "deletions": ..., "by time": ...}` of one run."""
    begun = len(store.requests)
    command = [sys.executable, "-m", "beit_jax.train", f"--config={ROOT}/configs/pretrain.py:runlocal"]
    command += [f"--workdir=gs://beit/{name}", *(f"--config.{key}={value}" for key, value in keys.items())]
    subprocess.run(command, check=True, cwd=ROOT, env=environment(store), stdout=subprocess.DEVNULL)
    found: dict[str, list[int]] = {}
    for request in store.requests[begun:]:
        entry = found.setdefault(kind_of(request), [0, 0])
        entry[0], entry[1] = entry[0] + 1, entry[1] + request.sent + request.received
    return found


def environment(store: object_store.Store) -> dict[str, str]:
    """Of a run on the CPU."""
    return os.environ | store.environment() | {"JAX_PLATFORMS": "cpu"}


def kind_of(request: object_store.Request) -> str:
    """What a store charges for a request."""
    if any(part in f"/{request.name}" for part in FOLLOWS_TIME):
        return "by time"
    if request.method == "DELETE":
        return "deletions"
    is_list = request.path.endswith("/o") or not request.name
    return "writes and lists" if request.method != "GET" or is_list else "reads"


def count(store: object_store.Store) -> dict[str, dict[str, list[float]]]:
    """What a run makes in all, and for each of `CHANGES`; requests and bytes by kind."""
    measure(store, "compiled", BASE)  # so that the others find what is prepared and compiled once
    base = measure(store, "base", BASE)
    table = {"whole run": base}
    for name, (more, keys) in CHANGES.items():
        found = measure(store, name.replace(" ", "_"), BASE | keys)
        table[name] = {
            kind: [(found.get(kind, [0, 0])[i] - base.get(kind, [0, 0])[i]) / more for i in (0, 1)]
            for kind in base.keys() | found.keys()
        }
    return table


def main() -> None:
    """The command; see the module's docstring."""
    with object_store.serve() as store:
        table = count(store)
    kinds = ("writes and lists", "reads", "deletions", "by time")
    print(f"| for each | {' | '.join(kinds)} | kB |\n| --- |{' --- |' * (len(kinds) + 1)}")
    for name, found in table.items():
        cells = [f"{found.get(kind, [0, 0])[0]:.3g}" for kind in kinds]
        print(f"| {name} | {' | '.join(cells)} | {sum(entry[1] for entry in found.values()) / 1000:,.1f} |")


if __name__ == "__main__":
    main()
