"""The table of names is one to one, for every depth and every kind of positions."""

import jax
import numpy as np
import pytest
from random_models import POSITIONS, config, pretrained

from beit_jax.convert import names
from beit_jax.models import variants
from beit_jax.tasks import create_task
from beit_jax.training.params import flatten

DEPTHS = {variant.depth: name for name, variant in variants.VARIANTS.items()}  # names depend on the depth alone
KINDS = [("pretrain", "mean"), ("classify", "mean"), ("classify", "cls")]


@pytest.mark.parametrize("variant", DEPTHS.values())
@pytest.mark.parametrize(("task", "pooling"), KINDS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_bijection(variant, task, pooling, positions):
    made = config(task, f"{variant}/16", positions, pooling, size=224)
    shapes = flatten(jax.eval_shape(create_task(made).init, jax.random.key(0)))
    size = sum(leaf.size for leaf in shapes.values())
    for layout in ("unilm", "hf"):
        theirs = names.shapes_in(shapes, layout, task)
        pairs = names.counterparts(shapes, layout, task)
        listed = [name for _, found in pairs for block in found.names for name in block]
        assert len(listed) == len(set(listed)) == len(theirs)
        assert sum(int(np.prod(shape)) for shape in theirs.values()) == size


@pytest.mark.parametrize("layout", ["unilm", "hf"])
@pytest.mark.parametrize(("task", "pooling"), KINDS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_there_and_back_to_the_last_bit(layout, task, pooling, positions):
    flat = flatten(pretrained(task, positions=positions, pooling=pooling).params)
    theirs = names.to_layout(flat, layout, task)
    back = names.from_layout(theirs, flat, layout, task)
    assert set(back) == set(flat)
    for name, value in flat.items():
        np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize("layout", ["unilm", "hf"])
def test_segmentation_there_and_back(layout):
    flat = flatten(pretrained("segment").params)
    theirs = names.to_layout(flat, layout, "segment")
    back = names.from_layout(theirs, flat, layout, "segment")
    jax.tree.map(np.testing.assert_array_equal, back, flat)
    assert ("backbone.blocks.0.norm1.weight" in theirs) == (layout == "unilm")
    assert len(names.buffers(flat, layout, "segment")) == 14 + 2 * (layout == "unilm")


def test_dvae_there_and_back():
    flat = flatten(pretrained("tokenizer").params)
    theirs = names.to_layout(flat, "dalle", "tokenizer")
    back = names.from_layout(theirs, flat, "dalle", "tokenizer")
    jax.tree.map(np.testing.assert_array_equal, back, flat)
    assert "encoder.blocks.group_2.block_1.id_path.w" in theirs and "decoder.blocks.output.conv.b" in theirs


def test_published_names():
    """Numbers of tensors in official checkpoints, and some of their names and shapes."""

    def shapes(task, **fields):
        made = config(task, "B/16", size=224, **fields)
        return flatten(jax.eval_shape(create_task(made).init, jax.random.key(0)))

    pretrain, finetune = shapes("pretrain", positions="shared", classes=8192), shapes("classify", classes=1000)
    official = names.shapes_in(pretrain, "unilm", "pretrain")
    assert len(official) + 1 == 190 and len(names.shapes_in(finetune, "unilm", "classify")) + 12 == 211
    assert official["blocks.11.attn.qkv.weight"] == (2304, 768)
    assert official["rel_pos_bias.relative_position_bias_table"] == (732, 12)
    hf = names.shapes_in(pretrain, "hf", "pretrain")
    assert hf["layernorm.weight"] == (768,) and hf["lm_head.weight"] == (8192, 768)
    assert hf["beit.encoder.layer.3.attention.attention.key.weight"] == (768, 768)
    assert "beit.encoder.layer.3.attention.attention.key.bias" not in hf
    assert names.shapes_in(finetune, "hf", "classify")["beit.pooler.layernorm.bias"] == (768,)


def test_index_buffers():
    flat = flatten(pretrained("classify").params)
    buffers = names.buffers(flat, "unilm", "classify")
    assert sorted(buffers) == [f"blocks.{i}.attn.relative_position_index" for i in range(2)]
    index = buffers["blocks.0.attn.relative_position_index"]
    assert index.shape == (17, 17) and index.dtype == np.int64 and index[0, 0] == 7 * 7 + 2
