"""Every config with every documented argument: builds, is valid, and its step lowers for TPU and CUDA."""

import jax
import pytest

from beit_jax import config as configs
from beit_jax import foreign_weights, own_images
from beit_jax.benchmarks import program
from beit_jax.config import validate
from beit_jax.errors import UserError
from beit_jax.tasks import segment

ARGUMENTS = {
    "tokenizer": [
        *("", "data=folder:somewhere", "steps=1000", "runlocal"),
        *("kind=vqkd,teacher=random", "kind=vqkd,teacher=runs/pretrain,steps=1000", "kind=vqkd,runlocal"),
        *(
            "kind=kmeans,classes=1000",
            "kind=kmeans,runlocal",
            "kind=random_projection",
            "kind=random_projection,runlocal",
        ),
        *(
            "kind=kmeans_features,teacher=random",
            "kind=kmeans_features,teacher=runs/pretrain,steps=9",
            "kind=kmeans_features,runlocal",
        ),
    ],
    "own_images": [
        "data=folder:somewhere",
        "data=folder:somewhere,size=64,minutes=60,labels=10%,variant=S/16,codes=100,batch=16,seeds=1,flip",
        "data=folder:somewhere,runlocal",
    ],
    "continue_pretraining": [
        "init=owner/name,data=folder:somewhere",
        "init=owner/name,data=folder:somewhere,image_size=32,codes=16,epochs=5,batch=16,flip,runlocal",
        "init=owner/name,data=folder:somewhere,channels=4,inflate=average,statistics=inception,minutes=60",
    ],
    "pretrain": [
        "",
        "variant=Ti/16",
        "variant=S/16",
        "variant=L/16",
        "data=imagenet21k,epochs=150",
        "paper",
        "fast",
        "v2,epochs=300",
        "v2,variant=L/16",
        "runlocal",
        "runlocal,fast",
        "runlocal,v2",
        *("kind=kmeans", "kind=random_projection", "kind=kmeans_features,runlocal", "kind=random_projection,runlocal"),
    ],
    "pretrain_features": ["", "teacher=runs/clip,variant=L/16", "runlocal"],
    "finetune": [
        *("", "variant=L/16", "paper", "image_size=384", "variant=L/16,image_size=512", "data=folder:somewhere"),
        *(f"recipe={name}" for name in ("22k", "22k_to_1k", "higher", "cifar100", "deit")),
        *(f"recipe={name},variant=L/16" for name in ("22k", "22k_to_1k")),
        *("v2", "v2,pretrained=300", "v2,recipe=22k", "v2,recipe=22k_to_1k", "v2,variant=L/16,pretrained=300"),
        "variant=L/16,paper",
        "statistics=inception",
        "runlocal",
    ],
    "transfer": ["init=runs/pretrain", "supervised,image_size=384", "v2,init=runs/pretrain", "runlocal"],
    "probe": ["", "setting=code,statistics=inception", "variant=L/16", "data=cifar100,cache", "runlocal"],
    "label_efficiency": [
        "init=runs/pretrain",
        "data=cifar100,variant=S/16,epochs=300,seeds=2,init=runs/pretrain",
        "runlocal",
    ],
    "ablation": [
        *("seeds=1", "rows=beit+pixels,seeds=2,labels=5,steps=300,finetune_steps=100", "runlocal"),
        "data=imagenet2012,tokenizer=runs/tokenizer,seeds=1",
        "data=imagenet2012,tokenizer=runs/vqkd,kind=vqkd,rows=beit+pixels+random_masking,seeds=1",
        "data=imagenet2012,tokenizer=runs/tokenizer,variant=S/16,epochs=100,paper,seeds=1",
    ],
    "digits": ["", "seeds=1,runlocal"],
    "self_iteration": ["", "labels=1,seeds=1,layer=2", "seeds=1,runlocal"],
    "tokenizers": ["", "arms=dvae+kmeans_features+average,labels=1,seeds=1,layer=2", "seeds=1,runlocal"],
    "segment": [
        *("", "size=640,stage=pt2ft", "variant=L/16,stage=pt2ft", "variant=L/16,stage=pt2ft,size=640"),
        *("head=setr_pup", "head=setr_pup,stage=pt2ft", "runlocal", "head=setr_pup,runlocal"),
        *("v2", "v2,stage=pt2ft,variant=L/16"),
    ],
    "digit_scenes": ["", "seeds=1,runlocal,scenes=50,steps=10,lr=1e-3,layer_decay=0.9"],
    "quickstart": ["", "labels=20,seeds=2,lr=4e-3,layer_decay=0.75,steps=1000", "runlocal"],
}


@pytest.fixture(autouse=True)
def images(monkeypatch):
    """What `configs/own_images.py` finds in the folder that it is given, and the weights of a hub id."""
    found = own_images.Images("train[:90%]", "train[90%:]", 900, 100, ("ant", "bee"), 64, 64 * 64)
    monkeypatch.setattr(own_images, "look_at", lambda source: found)
    monkeypatch.setattr(foreign_weights, "config_of", lambda name: configs.defaults("pretrain"))


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


LOWERED = set()


def switches(config):
    """What decides which program a step is; other settings are numbers in it."""
    model, opt = dict(config.model), config.optimizer
    on = [model.pop(key, 0) > 0 for key in ("drop_path", "layer_scale")]
    on += [config.get(key, 0) > 0 for key in ("mixup", "cutmix", "label_smoothing")]
    on += [opt.ema > 0, opt.clip_norm > 0, opt.layer_decay < 1, opt.schedule.partition(",")[0], opt.accumulate]
    keys = [str(config.get(key, "")) for key in ("layers", "features", "loss_on", "device_augment")]
    return str((config.task, sorted(model.items()), on, keys))


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_lowers_sharded_over_eight_devices(repository, name, arg):
    for config in stages(repository, name, arg).values():
        config.mesh.data, config.mesh.fsdp = 2, 4
        with jax.numpy_dtype_promotion("standard"):
            config = program.complete_without_data(config, "", dtype="auto")
            if switches(config) in LOWERED:
                continue
            LOWERED.add(switches(config))
            experiment = program.experiment_without_data(config)
            text = experiment.trace_step().lower(lowering_platforms=("tpu", "cuda")).as_text()
            # The batch is split over two axes of the mesh, and parameters over one of them.
            assert '{"data", "fsdp"}' in text and "mhlo.num_partitions = 8" in text
            # A probe's own are few, and replicated, as codes are.
            few = config.get("cache_features", False) or config.model.get("kind", "") in ("kmeans", "random_projection")
            assert '{"fsdp"}' in text or few


def ops_of(config):
    return configs.fill_in_sizes(config).data.ops


def test_official_values_are_the_defaults(repository):
    (base,) = stages(repository, "pretrain", "").values()
    assert (base.optimizer.lr, base.optimizer.min_lr, base.optimizer.clip_norm) == (1.5e-3, 1e-5, 3.0)
    assert (base.batch_size, base.epochs, base.optimizer.warmup, base.optimizer.weight_decay) == (
        2048,
        800,
        "10 epochs",
        0.05,
    )
    (large,) = stages(repository, "pretrain", "variant=L/16,data=imagenet21k,epochs=150").values()
    assert (large.optimizer.clip_norm, large.model.layer_scale, large.optimizer.warmup) == (1.0, 1e-5, "10000 steps")
    assert "normalize('inception')" in ops_of(large) and "normalize('imagenet')" in ops_of(base)
    (finetune,) = stages(repository, "finetune", "").values()
    assert (finetune.mixup, finetune.cutmix, finetune.label_smoothing) == (0.8, 1.0, 0.1)
    assert " | randaugment(statistics='imagenet') | " in ops_of(finetune)
    assert finetune.data.ops.endswith("random_erasing|keep('image', 'label')")
    (intermediate,) = stages(repository, "finetune", "recipe=22k_to_1k").values()
    assert (intermediate.mixup, intermediate.cutmix) == (0, 0)
    (tokenizer,) = stages(repository, "tokenizer", "").values()
    assert (tokenizer.loss.kl_weight, tokenizer.loss.annealing, tokenizer.optimizer.ema) == (
        6.6,
        "5%",
        0.999,
    )

    (cifar,) = stages(repository, "finetune", "recipe=cifar100").values()
    assert (cifar.data.source, cifar.batch_size, cifar.epochs, cifar.optimizer.weight_decay) == (
        "cifar100",
        512,
        150,
        0.3,
    )
    assert "random_erasing" not in cifar.data.ops
    (probe,) = stages(repository, "probe", "").values()
    assert (probe.layers, probe.features, probe.epochs, probe.optimizer.lr) == ((9,), "mean", 50, 4e-3)
    (code,) = stages(repository, "probe", "setting=code,variant=L/16").values()
    assert (code.layers, code.features, code.epochs, code.batch_size) == ((), "cls_mean", 100, 1024)


@pytest.mark.parametrize(
    ("row", "expected"),  # batch, lr, warm-up, epochs, layer decay, stochastic depth, weight decay, mixup, CutMix
    [
        ("recipe=22k,variant=L/16", (2048, 2e-3, 5, 90, 0.75, 0.2, 0.05, 0, 0)),
        ("recipe=22k", (4096, 3e-3, 5, 90, 0.65, 0.2, 0.05, 0, 0)),
        ("recipe=22k_to_1k,variant=L/16", (512, 2e-5, 5, 30, 0.9, 0.4, 1e-8, 0, 0)),
        ("recipe=22k_to_1k", (512, 2e-5, 5, 30, 0.85, 0.1, 1e-8, 0, 0)),
        ("variant=L/16", (1024, 1e-3, 5, 50, 0.75, 0.2, 0.05, 0.8, 1.0)),
        ("", (1024, 4e-3, 20, 100, 0.65, 0.1, 0.05, 0.8, 1.0)),
        ("v2", (1024, 5e-4, 20, 100, 0.6, 0.2, 0.05, 0.8, 1.0)),
        ("v2,pretrained=300", (1024, 5e-4, 20, 100, 0.65, 0.1, 0.05, 0.8, 1.0)),
        ("v2,variant=L/16", (1024, 2e-4, 5, 50, 0.8, 0.2, 0.05, 0.8, 1.0)),
        ("v2,variant=L/16,pretrained=300", (1024, 5e-4, 5, 50, 0.8, 0.2, 0.05, 0.8, 1.0)),
        ("v2,recipe=22k", (4096, 6e-4, 20, 90, 0.75, 0.1, 0.05, 0.8, 1.0)),
        ("v2,recipe=22k,variant=L/16,pretrained=300", (4096, 6e-4, 20, 90, 0.75, 0.2, 0.05, 0.8, 1.0)),
        ("v2,recipe=22k_to_1k", (1024, 5e-5, 20, 30, 0.75, 0.1, 0.05, 0, 0)),
        ("v2,recipe=22k_to_1k,variant=L/16", (1024, 7e-5, 5, 20, 0.8, 0.25, 0.05, 0, 0)),
    ],
)
def test_rows_of_the_official_tables(repository, row, expected):
    (config,) = stages(repository, "finetune", row).values()
    opt = config.optimizer
    found = (
        config.batch_size,
        opt.lr,
        float(opt.warmup.removesuffix(" epochs")),
        config.epochs,
        opt.layer_decay,
        config.model.drop_path,
    )
    assert (*found, opt.weight_decay, config.mixup, config.cutmix) == expected


@pytest.mark.parametrize(
    ("size", "statistics", "ending"),
    [
        (224, "imagenet", "resize_small(256)|central_crop(224)"),
        (384, "imagenet", "resize_small(384)|central_crop(384)"),
        (512, "imagenet", "resize_small(512)|central_crop(512)"),
    ],
)
def test_evaluation_crops(repository, size, statistics, ending):
    (config,) = stages(repository, "finetune", f"image_size={size}").values()
    expected = f"decode|{ending}|normalize('{statistics}')|keep('image', 'label')"
    assert configs.fill_in_sizes(config).data.eval_ops == expected.replace("|", " | ")


@pytest.mark.parametrize(
    ("name", "arg", "expected"),  # from scratch; an encoder goes on seeing pixels as in its pre-training
    [
        ("pretrain", "", "imagenet"),
        ("finetune", "", "imagenet"),
        ("finetune", "recipe=higher,image_size=384", "imagenet"),
        ("finetune", "recipe=cifar100", "inception"),
        ("pretrain", "data=cifar100", "inception"),
        ("finetune", "statistics=inception", "inception"),
        ("pretrain", "data=imagenet21k", "inception"),
        ("finetune", "recipe=22k", "inception"),
        ("finetune", "data=imagenet2012_subset/1pct", "imagenet"),
        ("finetune", "data=folder:photos", "inception"),
        ("pretrain", "data=folder:photos", "inception"),
        ("segment", "statistics=imagenet", "imagenet"),
        ("segment", "", "inception"),
        ("probe", "", "imagenet"),
        ("probe", "statistics=inception", "inception"),
    ],
)
def test_statistics_of_the_pixels(repository, name, arg, expected):
    for config in stages(repository, name, arg).values():
        filled = configs.fill_in_sizes(config).data
        assert f"normalize('{expected}')" in filled.ops and f"normalize('{expected}')" in filled.eval_ops


def test_stochastic_depth_of_the_paper(repository):
    found = [stages(repository, "finetune", arg)["finetune"] for arg in ("variant=L/16", "variant=L/16,paper")]
    assert [config.model.drop_path for config in found] == [0.2, 0.1]


def test_a_comparison_with_nothing_is_refused(repository):
    with pytest.raises(UserError, match="init is empty, so that both arms would start from scratch"):
        configs.load(str(repository / "configs" / "label_efficiency.py"))


def test_arms_of_a_comparison_differ_in_one_key(repository):
    for name, arms, free in (
        ("label_efficiency", ("from_beit_1pct_seed0", "from_scratch_1pct_seed0"), set()),
        ("digits", ("beit_5_labels_seed1", "scratch_5_labels_seed1"), set()),
        ("digits", ("probe_beit_seed1", "probe_random_seed1"), {"encoder.init_from"}),
    ):
        found = stages(repository, name, "init=runs/pretrain" if name == "label_efficiency" else "")
        one, other = (configs.flatten(found[arm]) for arm in arms)
        assert {key for key in one if one[key] != other[key]} == (free or {"init_from"})


@pytest.mark.parametrize(
    ("row", "expected"),  # crop, lr, layer decay, stochastic depth, layers, channels, micro-batches
    [
        ("", (512, 7e-4, 0.65, 0.1, (3, 5, 7, 11), 768, 1)),
        ("stage=pt2ft", (512, 3e-5, 0.9, 0.1, (3, 5, 7, 11), 768, 1)),
        ("stage=pt2ft,size=640", (640, 3e-5, 0.9, 0.1, (3, 5, 7, 11), 768, 1)),
        ("stage=pt2ft,variant=L/16", (512, 2e-5, 0.95, 0.2, (7, 11, 15, 23), 1024, 1)),
        ("stage=pt2ft,variant=L/16,size=640", (640, 2e-5, 0.95, 0.2, (7, 11, 15, 23), 1024, 2)),
        ("head=setr_pup", (512, 1e-3, 0.65, 0.1, (4, 7, 9, 11), 256, 1)),
        ("v2", (512, 5e-5, 0.75, 0.15, (3, 5, 7, 11), 768, 1)),
        ("v2,stage=pt2ft", (512, 5e-5, 0.85, 0.15, (3, 5, 7, 11), 768, 1)),
        ("v2,variant=L/16", (512, 4e-5, 0.9, 0.2, (7, 11, 15, 23), 1024, 1)),
        ("v2,stage=pt2ft,variant=L/16", (512, 3e-5, 0.9, 0.2, (7, 11, 15, 23), 1024, 1)),
    ],
)
def test_rows_of_the_segmentation_table(repository, row, expected):
    (config,) = stages(repository, "segment", row).values()
    opt, model = config.optimizer, config.model
    found = model.image_size, opt.lr, opt.layer_decay, model.drop_path, model.layers, model.channels, opt.accumulate
    assert found == expected
    assert (config.batch_size, config.steps, opt.warmup, opt.schedule) == (16, 160_000, "1500 steps", "linear")
    assert (opt.weight_decay, opt.min_lr, segment.AUXILIARY_WEIGHT) == (0.05, 0.0, 0.4)
