"""Every config with every documented argument: builds, is valid, and its step lowers for TPU and CUDA; and it runs."""

import jax
import pytest

from beit_jax import config as configs
from beit_jax import tasks, train
from beit_jax.training import loop, optimizer, origin, sharding
from beit_jax.training.metrics import read
from beit_jax.validate import validate

ARGUMENTS = {
    "tokenizer": ["", "data=folder:somewhere", "runlocal"],
    "pretrain": [
        "",
        "variant=Ti/16",
        "variant=S/16",
        "variant=L/16",
        "data=imagenet21k,epochs=150",
        "paper",
        "runlocal",
    ],
    "finetune": [
        *("", "variant=L/16", "paper", "image_size=384", "variant=L/16,image_size=512", "data=folder:somewhere"),
        *(f"recipe={name}" for name in ("22k", "22k_to_1k", "higher", "cifar100", "deit")),
        *(f"recipe={name},variant=L/16" for name in ("22k", "22k_to_1k")),
        "runlocal",
    ],
    "transfer": ["", "supervised,image_size=384", "variant=L/16", "runlocal"],
    "probe": ["", "setting=code", "variant=L/16", "data=cifar100,cache", "runlocal"],
    "label_efficiency": ["", "data=cifar100,variant=S/16,epochs=300,seeds=2,init=runs/pretrain", "runlocal"],
    "digits": ["", "seeds=1,runlocal"],
    "quickstart": ["", "labels=20,seeds=2,lr=4e-3,layer_decay=0.75,steps=1000", "runlocal"],
}


def stages(repository, name, arg):
    config = configs.load(str(repository / "configs" / f"{name}.py") + f":{arg}")
    found = {stage: config[stage] for stage in config.get("stages", ())} or {name: config}
    for stage in found.values():
        part = stage.get({"pretrain": "tokenizer", "probe": "encoder"}.get(stage.task, ""), None)
        if part is not None and not part.init_from:
            part.init_from = "random"
    validate(config)
    return found


def test_every_config_file_is_tested(repository):
    assert {path.stem for path in (repository / "configs").glob("*.py")} == set(ARGUMENTS)


CASES = [pytest.param(name, arg, id=f"{name}:{arg}") for name, arguments in ARGUMENTS.items() for arg in arguments]


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_lowers_sharded_over_eight_devices(repository, name, arg):
    mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
    seen = set()
    for config in stages(repository, name, arg).values():
        if "num_classes" in config.model:
            config.model.num_classes = 1000
        shape = config.task, str(config.model), config.batch_size, config.get("layers", ())
        if shape in seen:
            continue
        seen.add(shape)
        task = tasks.create(config)
        tx, _ = optimizer.make(config.optimizer, total_steps=100_000, warmup_steps=config.optimizer.warmup_steps)
        with jax.set_mesh(mesh), jax.numpy_dtype_promotion("standard"):
            state = origin.abstract_state(task, tx, config.optimizer.ema > 0, mesh)
            frozen = origin.abstract_frozen(task, mesh)
            traced = loop.trace_step(config, task, tx, mesh, state, frozen)
            for platform in ("tpu", "cuda"):
                text = traced.lower(lowering_platforms=(platform,)).as_text()
                # The batch is split over two axes of the mesh, and parameters over one of them.
                assert '{"data", "fsdp"}' in text and '{"fsdp"}' in text and "mhlo.num_partitions = 8" in text


def test_official_values_are_the_defaults(repository):
    (base,) = stages(repository, "pretrain", "").values()
    assert (base.optimizer.lr, base.optimizer.min_lr, base.optimizer.clip_norm) == (1.5e-3, 1e-5, 3.0)
    assert (base.batch_size, base.epochs, base.optimizer.warmup_epochs, base.optimizer.weight_decay) == (
        2048,
        800,
        10,
        0.05,
    )
    (large,) = stages(repository, "pretrain", "variant=L/16,data=imagenet21k,epochs=150").values()
    assert (large.optimizer.clip_norm, large.model.layer_scale, large.optimizer.warmup_steps) == (1.0, 1e-5, 10_000)
    assert "inception" in large.data.ops and "imagenet" in base.data.ops
    (finetune,) = stages(repository, "finetune", "").values()
    assert (finetune.mixup, finetune.cutmix, finetune.label_smoothing) == (0.8, 1.0, 0.1)
    assert "randaugment|" in finetune.data.ops and finetune.data.ops.endswith("random_erasing|keep('image', 'label')")
    (intermediate,) = stages(repository, "finetune", "recipe=22k_to_1k").values()
    assert (intermediate.mixup, intermediate.cutmix) == (0, 0)
    (tokenizer,) = stages(repository, "tokenizer", "").values()
    assert (tokenizer.elbo.kl_weight, tokenizer.elbo.temperature_steps, tokenizer.optimizer.ema) == (
        6.6,
        150_000,
        0.999,
    )


@pytest.mark.parametrize("name", ["tokenizer", "pretrain", "finetune"])
def test_runlocal_runs(repository, tmp_path, name):
    with jax.numpy_dtype_promotion("standard"):
        fewer = ["--config.steps=6", "--config.log_every=3", "--config.save_every=3"]
        train.main([f"--config={repository}/configs/{name}.py:runlocal", f"--workdir={tmp_path}", *fewer])
    lines = read(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [3, 6]
    assert (tmp_path / "report.html").exists()


def test_quick_start_path_skips_what_is_finished(repository, tmp_path, capsys):
    command = [f"--config={repository}/configs/quickstart.py:runlocal,seeds=1", f"--workdir={tmp_path}"]
    with jax.numpy_dtype_promotion("standard"):
        train.main(command)
    first = capsys.readouterr().out
    train.main(command)
    second = capsys.readouterr().out
    stage_names = ("tokenizer", "pretrain", "from_beit_seed0", "from_scratch_seed0")
    assert all(f"{name}: finished before, skipped" in second for name in stage_names)
    table = first[first.index("stage  ") :]
    assert table == second[second.index("stage  ") :]
    assert "starting from the parameters of" in first
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 10 and 'src="http' not in page
    for picture in ("tokenizer/pictures/reconstruction.png", "pretrain/pictures/masked.png"):
        assert (tmp_path / picture).stat().st_size > 500
