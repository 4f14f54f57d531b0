"""The recipe of the ablations: what its rows differ in, its stages, its arguments, and its table."""

import jax
import pytest

from beit_jax import config as configs
from beit_jax import train
from beit_jax.errors import UserError
from beit_jax.visualize import markdown, runs


def changed(one, other):
    one, other = configs.flatten(one), configs.flatten(other)
    return {key: (one[key], other[key]) for key in one.keys() & other.keys() if one[key] != other[key]}


@pytest.mark.parametrize(
    ("row", "pretraining", "finetuning"),  # what differs from the first row, but for ops
    [
        ("random_masking", {}, {}),
        ("pixels", {"task": ("pretrain", "pretrain_pixels")}, {}),
        ("pixels_random_masking", {"task": ("pretrain", "pretrain_pixels")}, {}),
        ("all_tokens", {"loss_on": ("masked", "all")}, {}),
        ("no_masking", {"loss_on": ("masked", "all")}, {}),
        ("half_length", {"epochs": (300.0, 150.0)}, {}),
        (
            "absolute_positions",
            {"model.absolute_positions": (False, True), "model.relative_position": ("shared", "none")},
            {"model.absolute_positions": (False, True), "model.relative_position": ("per_block", "none")},
        ),
        ("no_layer_scale", {"model.layer_scale": (0.1, 0.0)}, {"model.layer_scale": (0.1, 0.0)}),
        ("per_block_bias", {"model.relative_position": ("shared", "per_block")}, {}),
        ("shared_bias", None, {"model.relative_position": ("per_block", "shared")}),
        ("scratch", None, {}),
    ],
)
def test_rows_of_the_ablation_differ_in_one_thing(repository, row, pretraining, finetuning):
    found = configs.load(f"{repository}/configs/ablation.py:data=imagenet2012,tokenizer=runs/tokenizer,seeds=1")
    differing = changed(found.finetune_beit_seed0, found[f"finetune_{row}_seed0"])
    start = differing.pop("init_from", ("stage:pretrain_beit_seed0",) * 2)[1]
    assert start == {"shared_bias": "stage:pretrain_beit_seed0", "scratch": ""}.get(row, f"stage:pretrain_{row}_seed0")
    assert differing == finetuning
    name = f"pretrain_{row}_seed0"
    assert (name in found.stages) == (pretraining is not None)
    if pretraining is None:
        return
    differing = changed(found.pretrain_beit_seed0, found[name])
    masks = {"random_masking": "random_mask(num_masked, grid)", "no_masking": "no_mask(grid)"}
    masks["pixels_random_masking"] = masks["random_masking"]
    for key in ("ops", "eval_ops"):
        usual, ops = differing.pop(f"data.{key}", (found[name].data[key],) * 2)
        blocks = "blockwise_mask(num_masked, min_block, grid)"
        usual = usual.replace(blocks, masks.get(row, blocks))
        if "pixels" in row:
            usual = usual.replace("map_pixels('tokenizer_image')|", "").replace("'tokenizer_image', ", "")
            usual = usual.replace("tokenizer_size", "image_size")
        assert ops == usual
    assert differing == pretraining


def test_tokens_of_a_vqkd(repository):
    arguments = "data=imagenet2012,tokenizer=runs/vqkd,kind=vqkd,rows=beit+random_masking,seeds=1"
    found = configs.load(f"{repository}/configs/ablation.py:{arguments}")
    for name, masks in (("beit", "blockwise_mask(num_masked, min_block, grid)"), ("random_masking", "random_mask(")):
        config = found[f"pretrain_{name}_seed0"]
        assert (config.tokenizer.kind, config.tokenizer.init_from) == ("vqkd", "runs/vqkd")
        assert masks in config.data.ops and "map_pixels" not in config.data.ops  # which is of the dVAE


def test_stages_of_the_ablation(repository):
    found = configs.load(f"{repository}/configs/ablation.py:rows=shared_bias+scratch+pixels,seeds=2")
    expected = ["pretrain_pixels", "pretrain_beit", "finetune_pixels", "finetune_shared_bias", "finetune_scratch"]
    assert found.stages == ("tokenizer", *(f"{name}_seed{seed}" for seed in (0, 1) for name in expected))
    for seed in (0, 1):
        assert found[f"pretrain_beit_seed{seed}"].seed == found[f"finetune_scratch_seed{seed}"].seed == seed
    whole = configs.load(f"{repository}/configs/ablation.py")
    assert whole.pretrain_half_length_seed2.steps * 2 == whole.pretrain_beit_seed2.steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rows=beit+tokens", "rows='beit[+]tokens' has 'tokens'; expected some of beit[+]random_masking"),
        ("data=imagenet2012,tokenizer=x,paper,rows=plain_vit", "has 'plain_vit'; expected some of beit"),
        ("data=imagenet2012", "tokenizer is empty; give a run of configs/tokenizer.py"),
        ("data=imagenet2012,tokenizer=x,steps=5", "'steps' has no meaning with data=imagenet2012"),
        ("epochs=100", "'epochs' has no meaning with data=digits"),
        ("seeds=0", "found a recipe without stages"),
    ],
)
def test_wrong_arguments_of_the_ablation(repository, arguments, message):
    with pytest.raises(UserError, match=message):
        configs.load(f"{repository}/configs/ablation.py:{arguments}")


@pytest.mark.slow
def test_two_rows_of_the_ablation_run_and_make_the_table(repository, tmp_path):
    with jax.numpy_dtype_promotion("standard"):
        train.main(
            [
                f"--config={repository}/configs/ablation.py:runlocal,seeds=2,rows=pixels+no_masking",
                f"--workdir={tmp_path}",
            ]
        )
    table = markdown.markdown_table(runs.collect_runs(tmp_path)).splitlines()[2:]
    found = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in table]
    assert found == [
        ("tokenizer", "codes in use (perplexity)"),
        ("tokenizer", "codes that occur"),
        ("pretrain_pixels", "squared error of masked, normalised pixels"),
        ("pretrain_no_masking", "accuracy of all tokens, %"),
        ("finetune_pixels", "top-1, %"),
        ("finetune_pixels", "majority baseline, %"),
        ("finetune_no_masking", "top-1, %"),
        ("finetune_no_masking", "majority baseline, %"),
    ]
    of_two_seeds = [line for line in table if not line.startswith("| tokenizer ")]
    assert all(line.split("|")[4].strip() for line in of_two_seeds)  # deviations
    for picture in ("pretrain_pixels_seed0/pictures/filled.png", "pretrain_no_masking_seed1/pictures/recovered.png"):
        assert (tmp_path / picture).stat().st_size > 500
    assert (tmp_path / "curve_pretrain_all_tokens_all_acc.png").exists()
