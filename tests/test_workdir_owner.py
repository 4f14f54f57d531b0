"""A workdir belongs to the config of what was trained in it; a start that trained nothing leaves it free."""

import pytest
from commands import command, refused

from beit_jax import config as configs
from beit_jax import train
from beit_jax.config import recipe
from beit_jax.errors import UserError
from beit_jax.runtime.checkpoint_folder import has_checkpoint
from beit_jax.training import loop, memory_check
from beit_jax.training.memory_limit import MemoryLimit
from beit_jax.training.metrics import read_metrics
from beit_jax.workdir import FILES, FOLDERS, check_contents, check_owner, read_result, remove_leftovers

pytestmark = pytest.mark.usefixtures("in_the_checkout")
OURS = ("metrics.jsonl", "parameters.txt", "unreadable.txt", "unreadable-3.txt", "tensorboard/events.1.out.tfevents.1")
USERS = ("notes.txt", "metrics.jsonl.bak", "tensorboard/mine.txt", "unreadable-notes.md")


def config(task="classify", **keys):
    made = configs.defaults(task)
    made.data.ops = made.data.eval_ops = "decode"
    made.update_from_flattened_dict(keys)
    return made


def start(workdir, made, trained=()):
    """What a run of a config leaves in a workdir; some of its folders with a checkpoint."""
    for name in made.get("stages", ()) or ("",):
        for file in (*OURS, *USERS):
            (workdir / name / file).parent.mkdir(parents=True, exist_ok=True)
            (workdir / name / file).write_text("x")
        (workdir / name / "checkpoints" / "5.orbax-checkpoint-tmp-1").mkdir(parents=True)
        if name in trained:
            (workdir / name / "checkpoints" / "10").mkdir()
    (workdir / "config.json").write_text(configs.to_json(made))


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"config.json"}


def test_a_checkpoint_that_was_not_completed_is_none(tmp_path):
    """For the owner of a workdir, and for a run that may go on from it."""
    assert not has_checkpoint(tmp_path)
    start(tmp_path, config())
    assert not has_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "10").mkdir()
    assert has_checkpoint(tmp_path)


def test_untrained_workdir_is_free_and_cleared_of_our_files(tmp_path):
    start(tmp_path, config())
    other = config(**{"model.variant": "L/16"})
    check_owner(tmp_path, other)
    assert files(tmp_path) == {*OURS, *USERS}  # nothing goes before the new run starts
    remove_leftovers(tmp_path, config(log_every=7))
    assert files(tmp_path) == {*OURS, *USERS}  # the same run
    remove_leftovers(tmp_path, other)
    assert files(tmp_path) == set(USERS)


@pytest.mark.parametrize("mark", ["checkpoints/10", "checkpoints/10.broken", "result.json"])
def test_trained_workdir_is_refused_with_all_keys(tmp_path, mark):
    start(tmp_path, config())
    if mark == "result.json":
        (tmp_path / mark).write_text('{"loss": 1.5}')
    else:
        (tmp_path / mark).mkdir()
    check_owner(tmp_path, config(**{"mesh.data": 2, "data.max_bad_fraction": 0.5, "optimizer.accumulate": 4}))
    changes = {"seed": 3, "batch_size": 8, "mixup": 0.5, "cutmix": 0.25, "epochs": 2.0, "data.source": "digits"}
    more = {"optimizer.lr": 2.0, "optimizer.ema": 0.5, "optimizer.min_lr": 1.0, "label_smoothing": 0.0}
    with pytest.raises(UserError) as error:
        check_owner(tmp_path, config(**changes, **more))
    message = str(error.value)
    assert "batch_size is 2048 there and 8 now, cutmix is 0.0 there and 0.25 now" in message
    assert message.count(" there and ") == 8 and "and 2 more keys differ" in message
    assert f"--config={tmp_path}/config.json" in message
    assert files(tmp_path) - {"result.json"} == {*OURS, *USERS}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"loss": "low"}', '{"loss": [1]}', "[" * 100_000, b"\xff"])
def test_a_result_that_is_none_is_not_of_a_finished_run(tmp_path, text):
    (tmp_path / "result.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert read_result(tmp_path) is None
    (tmp_path / "result.json").write_text('{"loss": 1.5, "codes": 3}')
    assert read_result(tmp_path) == {"loss": 1.5, "codes": 3}


def test_a_finished_run_without_its_config_is_not_taken_for_another(tmp_path):
    (tmp_path / "result.json").write_text('{"loss": 1.5}')
    with pytest.raises(UserError, match=r"holds a finished run, and config.json is gone, .* remove .*/result.json"):
        check_owner(tmp_path, config())


@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_what_lies_where_a_run_writes(tmp_path, name):
    check_contents(tmp_path / "run")
    path = tmp_path / "run" / name
    wrong = "folder" if name in FOLDERS else "file"
    path.parent.mkdir()
    path.write_text("text") if name in FOLDERS else path.mkdir()
    with pytest.raises(UserError, match=f"run/{name} is no {wrong}; remove it, or choose another --workdir"):
        check_contents(tmp_path / "run")
    path.unlink() if name in FOLDERS else path.rmdir()
    path.symlink_to(tmp_path / "missing")
    with pytest.raises(UserError, match=f"run/{name} is no {wrong}"):
        check_contents(tmp_path / "run")


def test_a_workdir_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"/file is a file; expected a folder"):
        check_contents(tmp_path / "file" / "run")
    with pytest.raises(UserError, match=r"cannot be read: File name too long"):
        check_contents(tmp_path / ("long" * 100))


def test_stages_that_were_not_trained_may_change(tmp_path):
    def stages(first, second, **more):
        return recipe(first=config(seed=first), second=config(seed=second), **more)

    start(tmp_path, stages(1, 2), trained=("first",))
    check_owner(tmp_path, stages(1, 5))
    check_owner(tmp_path, stages(1, 2, third=config()))
    for wrong in (stages(4, 2), stages(4, 5)):
        with pytest.raises(UserError, match=r"first\.seed is 1 there and 4 now; choose"):
            check_owner(tmp_path, wrong)
    with pytest.raises(UserError, match="'first' was trained there"):
        check_owner(tmp_path, recipe(second=config(seed=2)))
    with pytest.raises(UserError, match="'first' was trained there"):
        check_owner(tmp_path, config())
    remove_leftovers(tmp_path, stages(1, 5))
    assert files(tmp_path / "first") == {*OURS, *USERS}
    assert files(tmp_path / "second") == set(USERS)


def test_another_task_in_an_untrained_workdir(tmp_path):
    start(tmp_path, config("tokenizer"))
    check_owner(tmp_path, config())
    start(tmp_path / "b", config("tokenizer"), trained=("",))
    with pytest.raises(UserError, match=r"task is 'tokenizer' there and 'classify' now|more keys differ"):
        check_owner(tmp_path / "b", config())


def test_config_of_a_run_is_a_config_file(tmp_path):
    made = recipe(first=config(**{"optimizer.betas": (0.5, 0.75)}), second=config("tokenizer"))
    file = tmp_path / "config.json"
    file.write_text(configs.to_json(made))
    loaded = configs.load(str(file))
    configs.validate(loaded)
    assert configs.to_json(loaded) == configs.to_json(made) and not configs.differing_keys(made, loaded)
    for text, expected in (("{", "cannot be read"), ("[1]", "cannot be read"), ('{"a": 1}', "is not that of a run")):
        file.write_text(text)
        with pytest.raises(UserError, match=expected):
            configs.load(str(file))
    with pytest.raises(UserError, match="takes no arguments, found 'small'"):
        configs.load(f"{file}:small")
    with pytest.raises(UserError, match="cannot be read"):
        configs.load(str(tmp_path / "missing.json"))


@pytest.mark.slow
def test_refusals_for_memory_leave_the_workdir_free(tmp_path, monkeypatch):
    limit = MemoryLimit(2**10, "free", on_host=True)
    monkeypatch.setattr(memory_check, "find_limit", lambda mesh: limit)
    workdir = tmp_path / "run"
    short = ["--config.steps=2", "--config.eval_every=0", "--config.evals.kinds=()", "--config.seed=3"]
    assert "a training step needs at least" in refused(command("probe", workdir))
    assert not (workdir / "config.json").exists() and not (workdir / "lock").exists()
    monkeypatch.setattr(memory_check, "find_limit", lambda mesh: None)
    monkeypatch.setattr(loop, "find_limit", lambda mesh: MemoryLimit(16, "free", on_host=True))
    assert "a training step needs" in refused(command("probe", workdir))
    assert (workdir / "config.json").exists() and not (workdir / "lock").exists()
    monkeypatch.setattr(loop, "find_limit", lambda mesh: None)
    train.main(command("probe", workdir, *short))
    assert (workdir / "result.json").exists()
    assert "seed is 3 there and 4 now" in refused(command("probe", workdir, *short, "--config.seed=4"))

    # The run's own config continues it, with changes that are allowed.
    (workdir / "result.json").unlink()
    train.main([f"--config={workdir}/config.json", f"--workdir={workdir}", "--config.log_every=1"])
    assert (workdir / "result.json").exists()
    assert max(line["step"] for line in read_metrics(workdir / "metrics.jsonl")) == 2
