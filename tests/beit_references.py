"""Weights for comparing our models with the reference libraries: drawn here, named and laid out as these expect them.

Written without a look at `beit_jax.convert`, so that a mistake in either shows.
"""

import zlib
from typing import Any

import jax
import numpy as np

Tree = dict[str, Any]


def random_parameters(shapes: Tree) -> Tree:
    """Numbers that depend on the names of parameters only; none is at its initial value, such as zero."""

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = "/".join(key.key for key in path)
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(leaf.shape)
        if name.endswith("scale") or "gamma" in name:
            return (1.0 + 0.2 * values).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if name.endswith("kernel") and leaf.ndim == 4 else 32
        return (values * 1.2 / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def linear(kernel: np.ndarray, outputs: int) -> np.ndarray:
    """Any kernel whose trailing axes hold `outputs` numbers -> PyTorch's `[outputs, inputs]`."""
    return kernel.reshape(-1, outputs).T


def hugging_face_names(params: Tree) -> dict[str, np.ndarray]:
    """Parameters of `MaskedImageModel` or `ImageClassifier` under the names of published Hugging Face files."""
    encoder = params["encoder"]
    out = {"beit.embeddings.cls_token": encoder["cls_token"]}
    out["beit.embeddings.patch_embeddings.projection.weight"] = encoder["patch_embed"]["kernel"].transpose(3, 2, 0, 1)
    out["beit.embeddings.patch_embeddings.projection.bias"] = encoder["patch_embed"]["bias"]
    if "mask_token" in encoder:
        out["beit.embeddings.mask_token"] = encoder["mask_token"]
    if "pos_embed" in encoder:
        out["beit.embeddings.position_embeddings"] = encoder["pos_embed"]
    table = "relative_position_bias.relative_position_bias_table"
    if "relative_position" in encoder:
        out[f"beit.encoder.{table}"] = encoder["relative_position"]["table"]
    for i in range(encoder["blocks"]["gamma_1"].shape[0]):
        block = jax.tree.map(lambda stacked, i=i: stacked[i], encoder["blocks"])
        for name, value in hugging_face_block(block, table).items():
            out[f"beit.encoder.layer.{i}.{name}"] = value
    norm = {"lm_head": "layernorm", "head": "beit.layernorm"}
    for ours, theirs in {"lm_head": "lm_head", "head": "classifier"}.items():
        if ours in params:
            out[f"{theirs}.weight"], out[f"{theirs}.bias"] = params[ours]["kernel"].T, params[ours]["bias"]
            if "norm" in encoder:
                out[f"{norm[ours]}.weight"] = encoder["norm"]["scale"]
                out[f"{norm[ours]}.bias"] = encoder["norm"]["bias"]
    if "fc_norm" in params:
        out["beit.pooler.layernorm.weight"] = params["fc_norm"]["scale"]
        out["beit.pooler.layernorm.bias"] = params["fc_norm"]["bias"]
    return {name: np.ascontiguousarray(value) for name, value in out.items()}


def hugging_face_block(block: Tree, table: str) -> dict[str, np.ndarray]:
    """One block, names relative to it."""
    attention, width = block["attn"], block["gamma_1"].shape[0]
    out = {"lambda_1": block["gamma_1"], "lambda_2": block["gamma_2"]}
    for ours, theirs in {"norm1": "layernorm_before", "norm2": "layernorm_after"}.items():
        out[f"{theirs}.weight"], out[f"{theirs}.bias"] = block[ours]["scale"], block[ours]["bias"]
    kernel = attention["qkv"]["kernel"].reshape(width, -1, 3, attention["q_bias"].shape[1])  # by head
    for i, name in enumerate(("query", "key", "value")):
        out[f"attention.attention.{name}.weight"] = linear(kernel[:, :, i], width)
    out["attention.attention.query.bias"] = attention["q_bias"].reshape(-1)
    out["attention.attention.value.bias"] = attention["v_bias"].reshape(-1)
    if "relative_position" in attention:
        out[f"attention.attention.{table}"] = attention["relative_position"]["table"]
    out["attention.output.dense.weight"] = linear(attention["proj"]["kernel"], width)
    out["attention.output.dense.bias"] = attention["proj"]["bias"]
    for ours, theirs in {"fc1": "intermediate.dense", "fc2": "output.dense"}.items():
        out[f"{theirs}.weight"], out[f"{theirs}.bias"] = block["mlp"][ours]["kernel"].T, block["mlp"][ours]["bias"]
    return out


def dall_e_names(params: Tree) -> dict[str, np.ndarray]:
    """The encoder's or the decoder's parameters under the names of the package `dall_e`."""
    out = {}
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        *layer, kind = (key.key for key in path)
        name = ".".join(["blocks", *layer] + ["conv"] * (layer == ["output"]))
        if kind == "kernel":
            out[f"{name}.w"] = np.ascontiguousarray(value.transpose(3, 2, 0, 1))
        else:
            out[f"{name}.b"] = value
    return out


def hugging_face_model(cls: type, config: Any, params: Tree) -> Any:
    """A Hugging Face model, in evaluation mode, that holds our parameters and nothing else."""
    import torch

    state = {name: torch.from_numpy(value) for name, value in hugging_face_names(params).items()}
    model, info = cls.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]}
    assert not wrong, wrong
    return model.eval()


def dall_e_model(module: Any, params: Tree) -> Any:
    """A module of `dall_e` in evaluation mode with our parameters."""
    import torch

    module.load_state_dict({name: torch.from_numpy(value) for name, value in dall_e_names(params).items()})
    return module.eval()
