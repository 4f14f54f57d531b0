"""Whole runs with their workdir in a bucket: the same numbers as on a disk, whatever the store does."""

import json
import threading
import time

import count_requests
import numpy as np
import orbax.checkpoint as ocp
import pytest
from distributed.runs import Run, numbers

from beit_jax.runtime.checkpoint_folder import own_checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_the_checkout")]
SETTINGS = ["--config.steps=60", "--config.log_every=5", "--config.save_every=10", "--config.eval_every=30"]
SETTINGS += ["--config.keep=3", "--config.batch_size=8"]


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory, repository):
    """The numbers of a run with its workdir on a disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        workdir = tmp_path_factory.mktemp("disk") / "run"
        start(workdir).finish()
        yield numbers(workdir)


def start(workdir, *more, **environment):
    return Run(workdir, devices=2, arguments=[*SETTINGS, *more], **environment)


def errors_of(output):
    return [line for line in output.splitlines() if line.startswith("error:")]


def test_a_run_makes_few_requests_and_none_for_a_step(store):
    table = count_requests.count(store)
    assert abs(sum(found[0] for kind, found in table["step"].items() if kind != "by time")) < 0.1, table
    assert sum(found[0] for found in table["line of the log"].values()) < 3, table
    assert sum(found[0] for found in table["checkpoint"].values()) < 250, table


def test_the_numbers_are_those_of_a_disk(store, folder, on_disk):
    start(folder).finish()
    assert numbers(folder) == on_disk
    assert json.loads((folder / "result.json").read_text())
    names = [path.name for path in folder.iterdir()]
    assert "lock" not in names and "metrics.jsonl.part" not in names and "report.html" in names


def test_a_killed_run_goes_on(store, folder, on_disk):
    run = start(folder).wait_for(" 30/60  eval")
    run.processes[0].kill()
    assert run.statuses() == [-9]
    again = start(folder).finish()
    assert "continuing from step" in again.all_output()
    assert numbers(folder) == on_disk


def test_a_second_run_is_refused(store, folder):
    run = start(folder, "--config.steps=100000").wait_for(" 5/100000")
    second = start(folder, "--config.steps=100000")
    assert second.statuses() == [2] and "is in use by process" in second.all_output()
    run.processes[0].terminate()
    assert run.statuses() == [0]


@pytest.mark.parametrize("failing", [0.05, 0.2])
def test_a_store_that_is_busy(store, folder, on_disk, failing):
    begun, store.failing = len(store.requests), failing
    run = start(folder).finish()
    refused = sum(request.status == 503 for request in store.requests[begun:])
    assert refused and "made again" in run.all_output(), run.all_output()
    store.failing = 0.0
    assert numbers(folder) == on_disk


def test_a_store_whose_answers_get_lost(store, folder, on_disk):
    """A request is done, and its answer never comes: it is made again, and nothing is written twice."""
    store.cut = 0.1
    start(folder).finish()
    store.cut = 0.0
    assert numbers(folder) == on_disk


def test_a_store_that_is_gone_for_a_minute(store, folder, on_disk):
    run = start(folder).wait_for(" 15/60")
    store.is_gone = True
    threading.Timer(60, lambda: setattr(store, "is_gone", False)).start()
    run.finish()
    assert numbers(folder) == on_disk


def test_a_store_that_is_gone_for_good(store, folder, on_disk):
    run = start(folder, BEIT_JAX_BUCKET_PATIENCE="10").wait_for(" 25/60")
    committed = {path.name for path in own_checkpoints(folder)}
    store.is_gone, gone = True, time.monotonic()
    assert run.statuses() == [2], run.all_output()
    assert time.monotonic() - gone < 120
    (error,) = errors_of(run.all_output())
    assert "run the same command again" in error, run.all_output()
    assert "Traceback" not in run.all_output(), run.all_output()
    store.is_gone = False
    assert committed and committed <= {path.name for path in own_checkpoints(folder)}
    start(folder).finish()
    assert numbers(folder) == on_disk


def test_other_runs_start_from_it(store, folder, tmp_path):
    """`init_from` and `resume_from` in a bucket; a copy on a disk, which has checksums of another kind, is read too."""
    from beit_jax.runtime import bucket
    from beit_jax.training import checkpoint

    start(folder).finish()
    newest = own_checkpoints(folder)[0]
    resumed = start(tmp_path / "resumed", f"--config.resume_from={folder}", "--config.steps=70").finish()
    assert "60" in resumed.all_output()
    bucket.file_system().get(str(folder / "checkpoints"), str(tmp_path / "copy" / "checkpoints"), recursive=True)
    copy = own_checkpoints(tmp_path / "copy")[0]
    assert copy.name == newest.name
    checkpoint.check_bytes(copy)
    files = [file for file in (copy / "params").rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    there, here = [ocp.StandardCheckpointer().restore(path / "params") for path in (newest, copy)]
    for first, second in zip(_leaves(there), _leaves(here), strict=True):
        np.testing.assert_array_equal(first, second)
    largest.write_bytes(largest.read_bytes()[:-9])
    with pytest.raises(Exception, match="has changed"):
        checkpoint.check_bytes(copy)


def _leaves(tree):
    return [leaf for value in tree.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])]
