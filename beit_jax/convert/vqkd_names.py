"""The tensors of a VQ-KD tokenizer in the official code (`modeling_vqkd.py`, `norm_ema_quantizer.py`)."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from beit_jax.convert.names import from_layout, to_layout

NETWORKS = ("encoder", "decoder")  # each with the names of an official encoder, whose last norm is called fc_norm
HEADS = {"encode_head": "encode_task_layer", "decode_head": "decode_task_layer"}
LAYERS = {"hidden": "0", "out": "2"}
CODES, USAGE = "quantize.embedding.weight", "quantize.cluster_size"
# What the official code stores beside the codes and never reads again after k-means, but for the flag.
IS_MADE, MEANS, SIZES = (f"quantize.embedding.{name}" for name in ("initted", "embed_avg", "cluster_size"))
IGNORED = r"^(teacher_model|scaling_layer|loss)\."  # of checkpoints of its training


def to_unilm(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flattened parameters under the names and with the axes of the official code."""
    out = {}
    for network in NETWORKS:
        tensors = to_layout(_network(params, network), "unilm", "classify")
        out |= {f"{network}.{name}": tensor for name, tensor in tensors.items()}
    for ours, theirs in _head_names():
        leaf = params[ours]
        out[theirs] = leaf.T if ours.endswith("kernel") else leaf
    codes, usage = params["codebook/vectors"], params["codebook/usage"]
    is_made = params["codebook/is_made"].reshape(1)
    return out | {CODES: codes, USAGE: usage, IS_MADE: is_made, MEANS: codes, SIZES: usage}


def from_unilm(state: Mapping[str, np.ndarray], shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Flattened parameters of these shapes from tensors whose names and shapes were checked (`shapes_in`)."""
    out = {}
    for network in NETWORKS:
        own = {name.removeprefix(f"{network}."): leaf for name, leaf in state.items() if name.startswith(network + ".")}
        found = from_layout(own, _network(shapes, network), "unilm", "classify")
        out |= {_outside(name, network): leaf for name, leaf in found.items()}
    for ours, theirs in _head_names():
        out[ours] = np.ascontiguousarray(state[theirs].T) if ours.endswith("kernel") else state[theirs]
    out |= {"codebook/vectors": state[CODES], "codebook/usage": state[USAGE]}
    return out | {"codebook/is_made": state[IS_MADE].reshape(()).astype(np.float32)}


def shapes_in(shapes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a checkpoint holds for a tokenizer of these flattened shapes."""
    return {name: tuple(leaf.shape) for name, leaf in jax.eval_shape(to_unilm, dict(shapes)).items()}


def _head_names() -> Iterator[tuple[str, str]]:
    for head, task_layer in HEADS.items():
        for layer, number in LAYERS.items():
            yield f"{head}/{layer}/kernel", f"{task_layer}.{number}.weight"
            yield f"{head}/{layer}/bias", f"{task_layer}.{number}.bias"


def _network(params: Mapping[str, Any], network: str) -> dict[str, Any]:
    """One of the networks by the names of a classifier, of which it has the encoder and the norm."""
    own = {name.removeprefix(f"{network}/"): leaf for name, leaf in params.items() if name.startswith(network + "/")}
    return {name.replace("norm/", "fc_norm/") if _is_norm(name) else f"encoder/{name}": own[name] for name in own}


def _outside(name: str, network: str) -> str:
    return (
        name.replace("fc_norm/", f"{network}/norm/")
        if name.startswith("fc_norm/")
        else name.replace("encoder/", f"{network}/", 1)
    )


def _is_norm(name: str) -> bool:
    return name.startswith("norm/")
