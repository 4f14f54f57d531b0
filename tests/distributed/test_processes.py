"""Two processes of four devices over loopback, beside one process of eight; preempted, continued on other devices."""

import shutil

import pytest
from runs import CONFIG, SHORT, Run, close, numbers
from test_foreign_weights import publish

from beit_jax import tokenize_dataset

pytestmark = [pytest.mark.usefixtures("in_the_checkout"), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, repository):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        yield tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def uninterrupted(folder):
    """Two processes, without interruption."""
    Run(folder / "uninterrupted", processes=2, devices=4).finish()
    return folder / "uninterrupted"


@pytest.fixture(scope="module")
def alone(folder):
    """One process, without interruption."""
    Run(folder / "alone").finish()
    return folder / "alone"


@pytest.fixture(scope="module")
def preempted(alone, folder):
    """Two processes that continue what one has saved, are preempted and started again: workdir, preempted run."""
    workdir = folder / "preempted"
    shutil.copytree(alone, workdir)
    shutil.rmtree(workdir / "checkpoints" / "24")
    (workdir / "result.json").unlink()
    run = Run(workdir, processes=2, devices=4).wait_for(" 15/24 ")
    assert run.preempt(index=1) == [0, 0], run.all_output()
    shutil.copytree(workdir, folder / "left")
    Run(workdir, processes=2, devices=4).finish()
    return workdir, run


def test_two_processes_learn_what_one_learns(uninterrupted, alone):
    assert [line["step"] for line in numbers(alone)] == [5, 10, 12, 12, 15, 20, 24, 24]
    close(numbers(uninterrupted), numbers(alone))
    written = sorted(path.name for path in uninterrupted.iterdir())
    assert written == sorted(path.name for path in alone.iterdir())


@pytest.mark.parametrize("kind", ["vqkd", "kmeans_features"])
def test_two_processes_have_one_codebook(folder, kind):
    runs = {f"{kind}_alone": 1, f"{kind}_of_two": 2}
    for name, processes in runs.items():
        Run(folder / name, processes, 8 // processes, config=f"configs/tokenizer.py:kind={kind},runlocal").finish()
    one, two = (numbers(folder / name) for name in runs)
    close(two, one)
    assert one[-1]["eval/codes_used"] > 16


def test_two_processes_learn_the_predictions_of_beit_v2_as_one_does(folder):
    for name, processes in (("v2_alone", 1), ("v2_of_two", 2)):
        config = "configs/pretrain.py:v2,runlocal"
        extra = [*SHORT, "--config.tokenizer.init_from=random"]
        Run(folder / name, processes, 8 // processes, config=config, arguments=extra).finish()
    close(numbers(folder / "v2_of_two"), numbers(folder / "v2_alone"))
    assert "branch_loss" in numbers(folder / "v2_alone")[0]


def test_two_processes_learn_from_stored_tokens_what_one_learns(folder, alone):
    tokenize_dataset.main([f"--config={CONFIG}", f"--out={folder}/tokens", *SHORT])
    Run(folder / "given", processes=2, devices=4, arguments=[*SHORT, f"--config.tokens={folder}/tokens"]).finish()
    close(numbers(folder / "given"), numbers(alone))


def test_two_processes_start_from_weights_of_another_library(folder):
    publish(folder / "hf")
    extra = ["--config.steps=4", "--config.evals.kinds=", f"--config.encoder.init_from={folder}/hf"]
    for name, processes in (("probe_alone", 1), ("probe_of_two", 2)):
        Run(folder / name, processes, 8 // processes, config="configs/probe.py:runlocal", arguments=extra).finish()
    close(numbers(folder / "probe_of_two"), numbers(folder / "probe_alone"))
    (folder / "damaged.bin").write_bytes(b"nothing")
    start = [f"--config.encoder.init_from={folder}/damaged.bin"]
    run = Run(folder / "damaged", 2, 4, config="configs/probe.py:runlocal", arguments=start)
    assert run.statuses() == [2, 2], run.all_output()
    assert all(f"encoder.init_from={folder}/damaged.bin cannot be read" in output for output in run.output)


def test_saved_by_one_process_continued_by_two_that_agree_on_a_step(preempted, alone):
    workdir, run = preempted
    assert "continuing from step 12; 24 steps on 8" in run.output[0]
    saved = [line for line in run.output[0].splitlines() if "is saved; run the same command again" in line]
    assert len(saved) == 1 and 15 <= int(saved[0].split(" at step ")[1].split(",")[0]) < 24
    assert "is saved" not in run.output[1]
    close(numbers(workdir), numbers(alone))


def test_saved_by_two_processes_continued_by_one_on_fewer_devices(preempted, folder, alone):
    left = folder / "left"
    newest = max(int(path.name) for path in (left / "checkpoints").iterdir())
    run = Run(left, devices=4).wait_for("compiled in")
    assert run.preempt() == [0], run.all_output()
    assert f"continuing from step {newest}; 24 steps on 4" in run.output[0]
    assert "24 steps on 2" in Run(left, devices=2).finish().output[0]
    close(numbers(left), numbers(alone))


def test_preempted_before_there_is_anything_to_save(folder):
    run = Run(folder / "early", processes=2, devices=4).wait_for("starting from scratch")
    assert run.preempt(index=1) == [0, 0], run.all_output()
    assert "while there was nothing to save; run the same command again" in run.output[0]
