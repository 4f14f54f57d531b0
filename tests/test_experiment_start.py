"""Pixel statistics are those of the checkpoint that a run starts from, and a difference is said."""

import jax
import numpy as np
import pytest
from tiny import config as tiny

import beit_jax
from beit_jax import config as configs
from beit_jax import evaluate
from beit_jax.config import statistics
from beit_jax.errors import UserError
from beit_jax.experiment import Experiment
from beit_jax.experiment_start import fill_in_statistics, find_start
from beit_jax.experiment_teacher import fill_in_teacher
from beit_jax.experiment_tokenizer import fill_in_tokenizer
from beit_jax.models.pixel_statistics import STATISTICS
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks import create_task
from beit_jax.training import checkpoint

OWN = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
OPS = "decode|resize(16)|normalize(statistics)|keep('image', 'label')"


def made(task="classify", ops=OPS, **keys):
    config = tiny(task)
    config.data.update(dict(source="digits", split="train", eval_split="test", ops=ops, eval_ops=ops))
    config.update_from_flattened_dict(keys)
    return config


def saved(folder, config):
    params = run_once(create_task(config).init, jax.random.key(0))
    checkpoint.save_params(folder, params, configs.to_json(config))
    return str(folder)


def started(config, folder, pending=None):
    return fill_in_statistics(config, find_start(config, folder, pending or {}))


def ours(caplog):
    return [record for record in caplog.records if record.name == "beit_jax"]


@pytest.fixture
def warnings_of(caplog):
    return lambda: [record.getMessage() for record in ours(caplog)]


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ("normalize('imagenet')", "normalize('imagenet')"),
        ("normalize", "normalize('inception')"),
        (f"normalize{OWN}", f"normalize({OWN})"),
        ("normalize(0.5, std=0.25)", "normalize(((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))"),
        ("normalize((0.5, 0.5, 0.5), 0.5)", "normalize('inception')"),
    ],
)
@pytest.mark.parametrize(("task", "key"), [("classify", "init_from"), ("probe", "encoder.init_from")])
def test_a_run_sees_pixels_as_the_encoder_that_it_starts_from(tmp_path, theirs, expected, task, key, warnings_of):
    old = made(ops=f"decode|{theirs}|keep('image', 'label')")
    config = started(made(task, **{key: "stage:old", "data.source": "imagenet2012"}), tmp_path, {"stage:old": old})
    assert (
        expected in configs.fill_in_sizes(config).data.ops and expected in configs.fill_in_sizes(config).data.eval_ops
    )
    assert (old.data.statistics, bool(config.data.statistics), warnings_of()) == ("", True, [])
    assert statistics.parse(config.data.statistics) == statistics.of_ops(configs.fill_in_sizes(config).data.ops)
    again = configs.from_json(configs.to_json(config))
    assert statistics.of_config(again) == statistics.of_config(config)


def test_a_checkpoint_that_does_not_tell(tmp_path, warnings_of):
    old = made(ops="decode|flip_lr")
    config = started(made(init_from="stage:old"), tmp_path, {"stage:old": old})
    assert config.data.statistics == "inception"
    (line,) = warnings_of()
    assert line.startswith("stage:old does not tell by which statistics") and "data.ops have inception" in line


def test_from_scratch_the_data_set_decides(tmp_path):
    for source, expected in (("imagenet2012", "imagenet"), ("cifar100", "inception"), ("folder:a", "inception")):
        for task in ("classify", "pretrain"):
            assert started(made(task, **{"data.source": source}), tmp_path).data.statistics == expected
    assert started(made(ops="decode|resize(16)|normalize('imagenet')"), tmp_path).data.statistics == ""  # not used


def test_other_statistics_are_said_in_one_line(tmp_path, warnings_of, caplog):
    old = made(**{"data.statistics": "imagenet"})
    start = {"init_from": saved(tmp_path / "old", old)}
    for keys, words in (
        ({"data.statistics": "inception"}, "data.ops normalize images by the statistics inception, and "),
        ({"data.ops": OPS.replace("statistics", "'inception'")}, f"{start['init_from']} was trained with imagenet"),
        (
            {"data.eval_ops": OPS.replace("statistics", "0.5, 0.25")},
            "data.eval_ops normalize images by the statistics (",
        ),
        ({"init_from": "", "data.eval_ops": OPS.replace("statistics", "'imagenet'")}, "and data.ops have inception"),
        ({"data.ops": OPS.replace("statistics", "'imagenet'")}, ""),
        ({"data.statistics": "imagenet"}, ""),
        ({"data.statistics": str(STATISTICS["imagenet"])}, ""),
    ):
        started(made(**start | keys), tmp_path / "run")
        assert [words in line and "\n" not in line for line in warnings_of()] == [True] * bool(words)
        caplog.clear()


def test_a_run_goes_on_with_its_own_statistics(tmp_path):
    """Also if the checkpoint that it started from is another one now."""
    old = made(**{"data.statistics": "imagenet"})
    saved(tmp_path / "run", made(**{"data.statistics": statistics.as_text(OWN)}))
    config = started(made(init_from=saved(tmp_path / "old", old)), tmp_path / "run")
    assert statistics.parse(config.data.statistics) == OWN
    other = made(resume_from=str(tmp_path / "run"), init_from=str(tmp_path / "old"))
    assert statistics.parse(started(other, tmp_path / "new").data.statistics) == OWN
    (tmp_path / "run" / "checkpoints" / "1" / "meta").mkdir(parents=True)  # the newest one is damaged
    config = started(made(init_from=str(tmp_path / "old")), tmp_path / "run")
    assert statistics.parse(config.data.statistics) == OWN


def test_statistics_of_a_converted_checkpoint(tmp_path):
    """What its preprocessor_config.json says comes back in a fine-tuning of the converted checkpoint."""
    config = made(**{"data.statistics": statistics.as_text(OWN)})
    saved(tmp_path / "ours", config)
    for name, format in (("hf", "hf"), ("back", "beit_jax")):
        model = beit_jax.from_pretrained(tmp_path / ("ours" if name == "hf" else "hf"))
        assert (model.config.preprocess.mean, model.config.preprocess.std) == OWN
        beit_jax.save_pretrained(tmp_path / name, model.params, model.config, format=format)
    experiment = Experiment.build(made(init_from=str(tmp_path / "back")), tmp_path / "new")
    assert statistics.parse(experiment.config.data.statistics) == OWN  # which its checkpoints hold
    assert f"normalize({OWN})" in experiment.data.config.data.ops


def test_an_evaluation_by_another_config_has_the_statistics_of_the_checkpoint(
    tmp_path, in_the_checkout, capsys, caplog
):
    config = made(**{"data.statistics": statistics.as_text(OWN), "model.init_scale": 5.0})
    name = saved(tmp_path / "run", config)
    (tmp_path / "config.json").write_text(configs.to_json(made()))
    printed = []
    for more in ([], [f"--config={tmp_path}/config.json"], ["--config.data.statistics=imagenet"]):
        evaluate.main([f"--checkpoint={name}", "--config.batch_size=64", *more])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]
    assert ["was trained with (0.1, 0.2" in record.getMessage() for record in ours(caplog)] == [True]


def test_wrong_statistics():
    for text in (
        "imagenett",
        "0.5",
        "(0.5, 0.5, 0.5)",
        "(1, 1, 1), (0, 1, 1)",
        "(1, 1), (1, 1)",
        "(1, 1, 'a'), (1, 1, 1)",
        "(",
    ):
        with pytest.raises(
            beit_jax.errors.UserError,
            match=r"data\.statistics(=.*expected 'inception' or 'imagenet', or a| has 2 channels)",
        ):
            configs.validate(made(**{"data.statistics": text}))


def test_the_op_takes_a_pair():
    from beit_jax.data.preprocessing import build_program

    pixels = np.full((1, 2, 3), 0.5, np.float32)
    found = build_program(f"normalize({OWN})").example({"image": pixels}, np.array([0, 0]))["image"]
    np.testing.assert_allclose(found[0, 0], [1.0, 0.6, 1 / 3], rtol=1e-6)


def test_statistics_of_ops_by_name_and_by_position():
    expected = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
    for ops in ("normalize(0.5, 0.2)", "decode|normalize(std=0.2, mean=0.5)", "normalize(0.5, std=(0.2, 0.2, 0.2))"):
        assert statistics.of_ops(ops) == expected
    with pytest.raises(ValueError):
        statistics.parse(f"({10**400}, 1, 1), (1, 1, 1)")


def test_the_number_that_means_1_is_that_of_the_start(tmp_path, warnings_of):
    sixteen = {"data.max_value": 10_000.0}
    stages = {"stage:old": made(**sixteen), "stage:eight": made(**{"data.source": "cifar10"})}
    stages |= {"stage:encoder": tiny("pretrain"), "stage:tokens": tiny("tokenizer")}
    for stage in ("stage:encoder", "stage:tokens"):
        stages[stage].data.max_value = 10_000.0
    assert started(made(init_from="stage:old"), tmp_path, stages).data.max_value == 10_000.0
    started(made(init_from="stage:eight", **sixteen), tmp_path, stages)
    vqkd, pretrain = tiny("vqkd"), tiny("pretrain")
    vqkd.teacher.path, pretrain.tokenizer.init_from = "stage:encoder", "stage:tokens"
    assert fill_in_teacher(vqkd, tmp_path, stages).data.max_value == 10_000.0
    assert fill_in_tokenizer(pretrain, tmp_path, stages).data.max_value == 10_000.0
    assert warnings_of() == []
    started(made(init_from="stage:old", **{"data.max_value": 255.0}), tmp_path, stages)
    vqkd.data.max_value = pretrain.data.max_value = 65_535.0
    fill_in_teacher(vqkd, tmp_path, stages)
    assert ["was trained with 10000, so that it saw other pixels" in line for line in warnings_of()] == [True, True]
    with pytest.raises(
        UserError, match=r"max_value=65535, and tokenizer.init_from=stage:tokens was trained with 10000"
    ):
        fill_in_tokenizer(pretrain, tmp_path, stages)
