"""Files of teachers: names of every library, what is refused, and teachers as runs."""

import jax
import numpy as np
import pytest
from random_models import pretrained
from teacher_files import (
    HEADS,
    LAYOUTS,
    SIZES,
    WIDTH,
    assert_same,
    hf_clip,
    hf_config,
    hf_vit,
    made,
    openai,
    timm,
    write,
)

import beit_jax
from beit_jax.convert import names
from beit_jax.convert.__main__ import main as convert
from beit_jax.convert.teachers import load_teacher, save_teacher
from beit_jax.errors import UserError
from beit_jax.training.params import flatten


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names(tmp_path, layout):
    kind, named = LAYOUTS[layout]
    settings = dict(projection=24, gelu="exact") if kind == "clip" else {}
    teacher, params = made(kind, **settings)
    folder = write(tmp_path / "theirs", named(params))
    loaded, found = load_teacher(folder, kind, heads=HEADS, **({"gelu": "exact"} if kind == "clip" else {}))
    assert_same(found, params)
    assert loaded.section.variant == "32x2x4/8" and (loaded.image_size, loaded.width) == (16, teacher.width)
    again = load_teacher(folder / "model.safetensors", kind, heads=HEADS, **settings)
    assert_same(again[1], params)


def test_a_tower_without_its_projection(tmp_path):
    _, params = made("clip", projection=24)
    bare, _ = made("clip", projection=0)
    without = {name: value for name, value in params["encoder"].items() if name != "projection"}
    for named in (openai, hf_clip, timm):
        folder = write(tmp_path / named.__name__, named(params))
        teacher, found = load_teacher(folder, projection=0, gelu="quick", heads=HEADS)
        assert_same(found, {"encoder": without})
        assert teacher.width == bare.width == WIDTH
    state = {name: value for name, value in openai(params).items() if name != "proj"}
    with pytest.raises(UserError, match=r"has no projection \(proj\); expected .*, or teacher.projection=0 for"):
        load_teacher(write(tmp_path / "bare", state), gelu="quick", heads=HEADS)
    assert_same(load_teacher(tmp_path / "bare", projection=0, gelu="quick", heads=HEADS)[1], {"encoder": without})


def test_settings_beside_the_weights(tmp_path):
    state = hf_clip(made("clip", projection=24)[1])
    pixels = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    whole = {"model_type": "clip", "vision_config": hf_config(hidden_act="quick_gelu", layer_norm_eps=1e-6)}
    open_clip = {"model_cfg": {"quick_gelu": True, "vision_cfg": {"head_width": 8}}, "preprocess_cfg": {}}
    timm_config = {
        "architecture": "vit_base_patch16_clip_quickgelu_224",
        "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3},
    }
    for number, (files, heads, gelu, eps, mean) in enumerate([
        (dict(config=hf_config()), None, "exact", 1e-5, 0.48145466),
        (dict(config=whole, preprocessor_config=pixels), None, "quick", 1e-6, 0.5),
        (dict(open_clip_config=open_clip), None, "quick", 1e-5, 0.48145466),
        (dict(config=timm_config), HEADS, "quick", 1e-5, 0.1),
    ]):  # fmt: skip
        teacher, _ = load_teacher(write(tmp_path / str(number), state, **files), heads=heads)
        assert (teacher.section.gelu, teacher.norm_eps, teacher.statistics[0][0]) == (gelu, eps, mean)
        assert teacher.variant.heads == HEADS
    folder = tmp_path / "0"
    for settings, message in [
        (dict(gelu="quick"), "teacher.gelu='quick', but .* has 'exact'; leave the key out"),
        (dict(heads=2), "has 4 attention heads by the settings beside it, and heads=2 is given"),
        (dict(variant="64x2x4/8"), "teacher.variant='64x2x4/8', but .* has '32x2x4/8'"),
        (dict(image_size=32), "teacher.image_size=32, but .* has 16"),
        (dict(projection=25), "teacher.projection=25, but .* has 24"),
    ]:
        with pytest.raises(UserError, match=message):
            load_teacher(folder, **settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (hf_config(model_type="siglip"), "is a 'siglip' by its config.json; expected one of clip, clip_vision_model"),
        (hf_config(hidden_act="relu"), "has hidden_act='relu' in config.json; expected one of quick_gelu, gelu"),
        (hf_config(layer_norm_eps=-1), "has layer_norm_eps=-1 in config.json; expected a small number"),
        (hf_config(num_attention_heads="4"), "has num_attention_heads='4' in config.json; expected a number"),
        (hf_config(num_attention_heads=5), "has the width 32, which 5 attention heads do not divide"),
    ],
)
def test_settings_of_other_models_are_one_line(tmp_path, content, message):
    folder = write(tmp_path / "x", hf_clip(made("clip", projection=24)[1]), config=content)
    with pytest.raises(UserError, match=message) as error:
        load_teacher(folder)
    assert "\n" not in str(error.value)


def refused(folder, state, message, kind="clip", **settings):
    given = dict(heads=HEADS) | ({"gelu": "quick"} if kind == "clip" else {}) | settings
    with pytest.raises(UserError, match=message) as error:
        load_teacher(write(folder, state), kind, **given)
    assert "\n" not in str(error.value)


def test_files_of_other_networks_are_one_line(tmp_path):
    clip, dino = made("clip", projection=24)[1], made("dino")[1]
    whole, name = openai(clip), "transformer.resblocks.1.mlp.c_fc.weight"
    refused(
        tmp_path / "1", whole | {name: np.ones((7, WIDTH), np.float32)}, rf"{name} \(7, 32\) \(expected \(128, 32\)"
    )
    missing = {key: value for key, value in whole.items() if key != name}
    refused(tmp_path / "2", missing, f"no complete CLIP checkpoint; missing: {name}")
    more = {"transformer.resblocks.1.ls_1.gamma": np.ones(WIDTH, np.float32)}
    refused(tmp_path / "3", whole | more, r"unexpected: transformer.resblocks.1.ls_1.gamma")
    visual = {f"visual.{key}": value for key, value in whole.items()}
    refused(tmp_path / "4", visual | {"decoder.x": np.ones(3, np.float32)}, "unexpected: decoder.x")
    refused(
        tmp_path / "5", timm(clip) | {"head.bias": np.ones(24, np.float32)}, "is a classifier, whose head is no proj"
    )
    refused(tmp_path / "6", timm(dino), r"holds no visual tower of CLIP \(its tensors: blocks.0.attn.proj.bias")
    refused(tmp_path / "7", timm(clip), "unexpected: head.bias, head.weight, norm_pre.bias, norm_pre.weight", "dino")
    refused(tmp_path / "8", whole, r"has patches of the shape \(\), positions of the shape \(\) and 0 blocks", "dino")
    refused(tmp_path / "9", whole, "does not state the GELU of its MLPs, .*teacher.gelu=quick for", gelu="auto")
    refused(tmp_path / "a", whole, "does not state its number of attention heads.*--heads N", heads=None)
    half = {key: value for key, value in hf_vit(dino).items() if key != "encoder.layer.0.attention.attention.key.bias"}
    refused(tmp_path / "b", half, "missing: beit.encoder.layer.0.attention.attention.key.bias", "dino")
    places = whole | {"positional_embedding": np.ones((4, WIDTH), np.float32)}
    refused(tmp_path / "c", places, r"positions of the shape \(4, 32\).*for square images")


@pytest.mark.parametrize("kind", ["clip", "dino"])
@pytest.mark.parametrize("layout", ["hf", "unilm"])
def test_a_beit_is_no_other_teacher(tmp_path, kind, layout):
    _, params, settings = pretrained("pretrain", positions="shared")
    if layout == "hf":
        beit_jax.save_pretrained(tmp_path / "beit", params, settings)
    else:
        state = names.to_layout(flatten(params), "unilm", "pretrain")
        write(tmp_path / "beit", state)
    with pytest.raises(
        UserError, match=rf"is no {kind}: it holds .*, which networks of BEiT have; teacher.kind=encoder"
    ):
        load_teacher(tmp_path / "beit", kind)


def test_encoders_of_runs_and_of_other_libraries(tmp_path):
    _, params, settings = pretrained("pretrain", positions="shared")
    beit_jax.save_pretrained(tmp_path / "run", params, settings, format="beit_jax")
    beit_jax.save_pretrained(tmp_path / "hf", params, settings)
    for folder in ("run", "hf"):
        teacher, found = load_teacher(tmp_path / folder, "encoder")
        expected = {name: value for name, value in params["encoder"].items() if name != "mask_token"}
        assert_same(found, {"encoder": expected})
        assert teacher.section.relative_position == "shared" and teacher.statistics[0] == (0.5, 0.5, 0.5)
        assert (teacher.grid, teacher.width) == ((4, 4), 32)
    teacher, found = load_teacher(tmp_path / "run", "encoder", layer=1)
    assert "norm" not in found["encoder"] and teacher.section.layer == 1
    with pytest.raises(UserError, match=r"teacher.layer=3; expected at most 2, the depth of the encoder"):
        load_teacher(tmp_path / "run", "encoder", layer=3)
    with pytest.raises(UserError, match="is a run of the task 'pretrain', and no teacher of the kind 'dino'"):
        load_teacher(tmp_path / "run", "dino")
    assert load_teacher(tmp_path / "run")[0].section.kind == "encoder"  # which a run tells
    with pytest.raises(UserError, match=r"run is no clip, but a run that teacher.kind=encoder takes as it is"):
        load_teacher(tmp_path / "run", "clip")


def test_there_and_back_as_a_run(tmp_path, capsys):
    _, params = made("clip", projection=24)
    write(tmp_path / "theirs", openai(params))
    command = [str(tmp_path / "theirs"), str(tmp_path / "run"), "--to=beit_jax", "--teacher=clip"]
    convert([*command, "--gelu=exact", f"--heads={HEADS}"])
    assert "a teacher of the kind clip, 32x2x4/8 for images of 16 pixels, 24 numbers a patch" in capsys.readouterr().out
    again, found = load_teacher(tmp_path / "run")
    assert_same(found, params)
    assert (again.section.gelu, again.norm_eps, again.width) == ("exact", 1e-5, 24)
    with pytest.raises(UserError, match=r"is a teacher of the kind 'clip'; expected 'dino', or teacher.kind=clip"):
        load_teacher(tmp_path / "run", "dino")
    with pytest.raises(UserError, match=r"is a frozen teacher; convert.teachers.load_teacher loads it"):
        beit_jax.from_pretrained(tmp_path / "run")
    bare, found = load_teacher(tmp_path / "run", projection=0)
    assert bare.width == WIDTH and "projection" not in found["encoder"]
    with pytest.raises(UserError, match="exists; choose another folder"):
        save_teacher(tmp_path / "run", again, params)


def test_mistakes_in_the_command(tmp_path):
    write(tmp_path / "theirs", openai(made("clip", projection=24)[1]))
    for arguments, message in [
        (["--to=hf", "--teacher=clip"], "found --to hf with --teacher; expected --to beit_jax"),
        (["--to=beit_jax", "--gelu=quick"], "found --gelu without --teacher clip"),
        (["--to=beit_jax", "--teacher=dino", "--num_classes=3"], "found --num_classes with --teacher"),
    ]:
        with pytest.raises(UserError, match=message):
            convert([str(tmp_path / "theirs"), str(tmp_path / "out"), *arguments])


def test_a_random_teacher():
    teacher, params = load_teacher("random", "dino", **SIZES)
    assert_same(jax.tree.map(np.shape, params), jax.tree.map(np.shape, made("dino")[1]))
    assert teacher.section.path == "random"
