"""Teachers with random weights in the files of other libraries, written without a look at `beit_jax.convert`."""

import json

import jax
import numpy as np
from beit_references import linear, random_parameters
from safetensors.numpy import save_file

from beit_jax.config import teacher as keys
from beit_jax.tasks.teachers import create_teacher
from beit_jax.training.params import flatten

WIDTH, DEPTH, HEADS = 32, 2, 4
SIZES = dict(variant=f"{WIDTH}x{DEPTH}x{HEADS}/8", image_size=16)


def made(kind, **settings):
    """A teacher, and parameters of which none is at its initial value."""
    teacher = create_teacher(keys.section(kind=kind, **SIZES, **settings))
    return teacher, random_parameters(jax.eval_shape(teacher.init, jax.random.key(0)))


def blocks(params):
    """For each block and each of its tensors: our path, and the tensor as PyTorch has it; keys have a bias of ones."""
    for i in range(DEPTH):
        block = flatten(jax.tree.map(lambda stacked, i=i: stacked[i], params["encoder"]["blocks"]))
        kernel = block.pop("attn/qkv/kernel").reshape(WIDTH, HEADS, 3, WIDTH // HEADS)
        parts = [linear(kernel[:, :, part], WIDTH) for part in range(3)]
        biases = [block.pop("attn/q_bias").reshape(-1), np.ones(WIDTH), block.pop("attn/v_bias").reshape(-1)]
        out = {"qkv.weight": parts, "qkv.bias": [bias.astype(np.float32) for bias in biases]}
        for name, value in block.items():
            stem, _, end = name.rpartition("/")
            out[f"{stem}.{'bias' if end == 'bias' else 'weight'}"] = value.T if end == "kernel" else value
        yield i, out


def openai(params):
    """By the names of OpenAI and open_clip."""
    encoder = params["encoder"]
    state = {
        "class_embedding": encoder["cls_token"][0, 0],
        "positional_embedding": encoder["pos_embed"][0],
        "conv1.weight": encoder["patch_embed"]["kernel"].transpose(3, 2, 0, 1),
    }
    state |= {"proj": encoder["projection"]["kernel"]} if "projection" in encoder else {}
    for mine, theirs in {"norm_pre": "ln_pre", "norm": "ln_post"}.items():
        state |= {f"{theirs}.weight": encoder[mine]["scale"], f"{theirs}.bias": encoder[mine]["bias"]}
    stems = {
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn/proj": "attn.out_proj",
        "mlp/fc1": "mlp.c_fc",
        "mlp/fc2": "mlp.c_proj",
    }
    for i, block in blocks(params):
        for name, value in block.items():
            stem, end = name.split(".")
            name = f"attn.in_proj_{end}" if stem == "qkv" else f"{stems[stem]}.{end}"
            state[f"transformer.resblocks.{i}.{name}"] = np.concatenate(value) if stem == "qkv" else value
    return state


def in_parts(params, prefix, stems, parts):
    """The blocks by the names of transformers: `stems` by ours, and `parts` for queries, keys and values."""
    state = {}
    for i, block in blocks(params):
        for name, value in block.items():
            stem, end = name.split(".")
            names, values = (parts, value) if stem == "qkv" else ([stems[stem]], [value])
            state |= {f"{prefix}.{i}.{n}.{end}": v for n, v in zip(names, values, strict=True)}
    return state


def hf_clip(params):
    """By the names of transformers' CLIP."""
    old = openai(params)
    state = {
        "embeddings.class_embedding": old["class_embedding"],
        "embeddings.position_embedding.weight": old["positional_embedding"],
        "embeddings.patch_embedding.weight": old["conv1.weight"],
    }
    for mine, theirs in {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}.items():
        state |= {f"{theirs}.{end}": old[f"{mine}.{end}"] for end in ("weight", "bias")}
    stems = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn/proj": "self_attn.out_proj"}
    stems |= {f"mlp/fc{i}": f"mlp.fc{i}" for i in (1, 2)}
    state |= in_parts(params, "encoder.layers", stems, [f"self_attn.{part}_proj" for part in "qkv"])
    return {f"vision_model.{name}": value for name, value in state.items()} | {
        "visual_projection.weight": old["proj"].T
    }


def timm(params):
    """By the names of timm and DINO."""
    encoder = params["encoder"]
    state = {
        "cls_token": encoder["cls_token"],
        "pos_embed": encoder["pos_embed"],
        "patch_embed.proj.weight": encoder["patch_embed"]["kernel"].transpose(3, 2, 0, 1),
    }
    if "bias" in encoder["patch_embed"]:
        state["patch_embed.proj.bias"] = encoder["patch_embed"]["bias"]
    if "projection" in encoder:
        kernel = encoder["projection"]["kernel"]
        state |= {"head.weight": kernel.T, "head.bias": np.zeros(kernel.shape[1], np.float32)}
    for name in {"norm_pre", "norm"} & encoder.keys():
        state |= {f"{name}.weight": encoder[name]["scale"], f"{name}.bias": encoder[name]["bias"]}
    for i, block in blocks(params):
        for name, value in block.items():
            stem, end = name.split(".")
            name = f"attn.qkv.{end}" if stem == "qkv" else f"{stem.replace('/', '.')}.{end}"
            state[f"blocks.{i}.{name}"] = np.concatenate(value) if stem == "qkv" else value
    return state


def hf_vit(params):
    """By the names of transformers' ViT, as in `facebook/dino-vitb16`."""
    old = timm(params)
    state = {
        "embeddings.cls_token": old["cls_token"],
        "embeddings.position_embeddings": old["pos_embed"],
        "pooler.dense.weight": np.ones((WIDTH, WIDTH), np.float32),
    }
    for end in ("weight", "bias"):
        state[f"embeddings.patch_embeddings.projection.{end}"] = old[f"patch_embed.proj.{end}"]
        state[f"layernorm.{end}"] = old[f"norm.{end}"]
    stems = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn/proj": "attention.output.dense"}
    stems |= {"mlp/fc1": "intermediate.dense", "mlp/fc2": "output.dense"}
    parts = [f"attention.attention.{part}" for part in ("query", "key", "value")]
    state |= in_parts(params, "encoder.layer", stems, parts)
    return state


TEXTS = {
    "positional_embedding": np.ones((7, 4), np.float32),
    "transformer.resblocks.9.ln_1.weight": np.ones(4, np.float32),
    "token_embedding.weight": np.ones((9, 4), np.float32),
    "ln_final.bias": np.ones(4, np.float32),
    "text_projection": np.ones((4, 4), np.float32),
    "logit_scale": np.ones((), np.float32),
    "input_resolution": np.array(16),
}
HF_TEXTS = {
    "text_model.final_layer_norm.bias": np.ones(4, np.float32),
    "text_model.embeddings.position_ids": np.arange(7)[None],
    "vision_model.embeddings.position_ids": np.arange(5)[None],
    "text_projection.weight": np.ones((4, 4), np.float32),
    "logit_scale": np.ones((), np.float32),
}
LAYOUTS = {
    "openai": ("clip", openai),
    "open_clip": ("clip", lambda params: {f"visual.{name}": value for name, value in openai(params).items()} | TEXTS),
    "hf": ("clip", lambda params: hf_clip(params) | HF_TEXTS),
    "hf_tower": ("clip", lambda params: {n.removeprefix("vision_model."): v for n, v in hf_clip(params).items()}),
    "timm": ("clip", timm),
    "dino": ("dino", timm),
    "dino_hf": ("dino", hf_vit),
}


def write(folder, state, **settings):
    folder.mkdir(exist_ok=True)
    save_file({name: np.array(value, order="C") for name, value in state.items()}, folder / "model.safetensors")
    for name, content in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def assert_same(found, params):
    expected, found = flatten(params), flatten(found)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def hf_config(**more):
    return {"model_type": "clip_vision_model", "hidden_act": "gelu", "num_attention_heads": HEADS} | more
