"""The recipes of BEiT v2 and of its tokenizer: published values, and what is refused."""

import pytest
from test_configs import ops_of, stages

from beit_jax import config as configs
from beit_jax.errors import UserError


@pytest.mark.parametrize(
    ("arg", "epochs", "drop_path", "betas", "layer_scale", "early_layer"),
    [
        ("v2", 1600, 0.1, (0.9, 0.999), 0.1, 9),
        ("v2,epochs=300", 300, 0, (0.9, 0.98), 0.1, 9),
        ("v2,variant=L/16", 1600, 0.1, (0.9, 0.999), 1e-5, 21),
        ("v2,variant=L/16,epochs=300", 300, 0, (0.9, 0.98), 1e-5, 21),
    ],
)
def test_recipes_of_beit_v2(repository, arg, epochs, drop_path, betas, layer_scale, early_layer):
    (found,) = stages(repository, "pretrain", arg).values()
    model, optimizer = found.model, found.optimizer
    assert (found.epochs, model.drop_path, optimizer.betas) == (epochs, drop_path, betas)
    assert (model.layer_scale, model.early_layer, model.head_layers, model.shared_head) == (
        layer_scale,
        early_layer,
        2,
        True,
    )
    assert (optimizer.lr, optimizer.min_lr, optimizer.weight_decay, optimizer.clip_norm) == (1.5e-3, 1e-5, 0.05, 3.0)
    assert (found.batch_size, optimizer.warmup) == (2048, "10 epochs")
    assert "| two_views(224, 224, 0.2, tokenizer_method='bicubic') |" in ops_of(found)
    assert "| blockwise_mask(75, 16, 14, exact=True) |" in ops_of(found)
    assert found.tokenizer.kind == "vqkd" and "map_pixels" not in found.data.ops
    assert "two_views_center(224, 224, tokenizer_method='bicubic')" in configs.fill_in_sizes(found).data.eval_ops


def test_stages_of_beit_v2_after_its_pretraining(repository):
    found = stages(repository, "transfer", "v2,variant=L/16,init=runs/pretrain")
    assert [(stage.optimizer.lr, stage.epochs) for stage in found.values()] == [(6e-4, 90), (7e-5, 20)]
    assert [stage.init_from for stage in found.values()] == ["runs/pretrain", "stage:intermediate"]


@pytest.mark.parametrize(
    ("name", "arg", "message"),
    [
        ("finetune", "pretrained=300", "pretrained=300 without v2"),
        ("finetune", "v2,pretrained=-3", "pretrained=-3; expected a number of epochs above 0"),
        ("finetune", "v2,paper", "v2 and paper together"),
        ("finetune", "v2,recipe=deit", "recipe='deit'; expected one of 1k, 22k, 22k_to_1k with v2"),
        ("transfer", "v2,supervised", "v2 and supervised together"),
        ("segment", "v2,head=setr_pup", "published for setr_pup, base, pt of BEiT v2; expected one of upernet, base"),
        ("tokenizer", "kind=vqkd", "kind=vqkd needs a teacher; expected teacher=RUN"),
        ("tokenizer", "kind=kmeans_features", "kind=kmeans_features needs a teacher"),
        ("tokenizer", "kind=kmeans,teacher=runs/dino", "teacher=runs/dino is for the kinds vqkd and kmeans_features"),
        ("tokenizer", "kind=random_projection,steps=5", "steps=5, but a random projection learns nothing"),
    ],
)
def test_what_is_refused_in_one_line(repository, name, arg, message):
    with pytest.raises(UserError, match=message):
        stages(repository, name, arg)


def test_a_tokenizer_of_an_unknown_kind(repository):
    with pytest.raises(UserError, match=r"tokenizer kind .vqdk. is unknown; expected one of dvae, vqkd"):
        stages(repository, "tokenizer", "kind=vqdk")
