"""The name of each parameter in other libraries, and the order of its axes there: one table for both directions.

Layouts: "unilm" (the official code; timm uses the same names), "hf" (the names in published transformers files) and
"dalle" (OpenAI's dVAE). Blocks, stacked along a leading axis here, are numbered there; the fused projection of queries,
keys and values is three tensors in "hf".
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from einops import rearrange

from beit_jax.convert.layouts import CODES, task_layout
from beit_jax.models.relative_position import relative_position_index

Layout = Literal["unilm", "hf", "dalle"]


class Row(NamedTuple):
    """One parameter: our name, its names elsewhere (`{}`: index of the block), and the axes from PyTorch to here."""

    ours: str
    unilm: str
    hf: str | tuple[str, ...]  # several tensors: the rows of the one above, in this order
    axes: str = ""


LINEAR = "o i -> i o"
CONV = "o i y x -> y x i o"
OURS, UNILM, HF = "encoder/blocks/", "blocks.{}.", "beit.encoder.layer.{}."
ATTENTION = HF + "attention.attention."
TABLE = "relative_position_bias.relative_position_bias_table"

ROWS = (
    Row("encoder/cls_token", "cls_token", "beit.embeddings.cls_token"),
    Row("encoder/mask_token", "mask_token", "beit.embeddings.mask_token"),
    Row("encoder/pos_embed", "pos_embed", "beit.embeddings.position_embeddings"),
    Row(
        "encoder/patch_embed/kernel",
        "patch_embed.proj.weight",
        "beit.embeddings.patch_embeddings.projection.weight",
        CONV,
    ),
    Row("encoder/patch_embed/bias", "patch_embed.proj.bias", "beit.embeddings.patch_embeddings.projection.bias"),
    Row("encoder/relative_position/table", "rel_pos_bias.relative_position_bias_table", f"beit.encoder.{TABLE}"),
    Row(OURS + "norm1/scale", UNILM + "norm1.weight", HF + "layernorm_before.weight"),
    Row(OURS + "norm1/bias", UNILM + "norm1.bias", HF + "layernorm_before.bias"),
    Row(
        OURS + "attn/qkv/kernel",
        UNILM + "attn.qkv.weight",
        (ATTENTION + "query.weight", ATTENTION + "key.weight", ATTENTION + "value.weight"),
        "(n h c) d -> d (h n c)",
    ),
    Row(OURS + "attn/q_bias", UNILM + "attn.q_bias", ATTENTION + "query.bias", "(h c) -> h c"),
    Row(OURS + "attn/v_bias", UNILM + "attn.v_bias", ATTENTION + "value.bias", "(h c) -> h c"),
    Row(OURS + "attn/relative_position/table", UNILM + "attn.relative_position_bias_table", ATTENTION + TABLE),
    Row(OURS + "attn/proj/kernel", UNILM + "attn.proj.weight", HF + "attention.output.dense.weight", LINEAR),
    Row(OURS + "attn/proj/bias", UNILM + "attn.proj.bias", HF + "attention.output.dense.bias"),
    Row(OURS + "gamma_1", UNILM + "gamma_1", HF + "lambda_1"),
    Row(OURS + "gamma_2", UNILM + "gamma_2", HF + "lambda_2"),
    Row(OURS + "norm2/scale", UNILM + "norm2.weight", HF + "layernorm_after.weight"),
    Row(OURS + "norm2/bias", UNILM + "norm2.bias", HF + "layernorm_after.bias"),
    Row(OURS + "mlp/fc1/kernel", UNILM + "mlp.fc1.weight", HF + "intermediate.dense.weight", LINEAR),
    Row(OURS + "mlp/fc1/bias", UNILM + "mlp.fc1.bias", HF + "intermediate.dense.bias"),
    Row(OURS + "mlp/fc2/kernel", UNILM + "mlp.fc2.weight", HF + "output.dense.weight", LINEAR),
    Row(OURS + "mlp/fc2/bias", UNILM + "mlp.fc2.bias", HF + "output.dense.bias"),
    Row("encoder/norm/scale", "norm.weight", "{norm}.weight"),
    Row("encoder/norm/bias", "norm.bias", "{norm}.bias"),
    Row("lm_head/kernel", "lm_head.weight", "lm_head.weight", LINEAR),
    Row("lm_head/bias", "lm_head.bias", "lm_head.bias"),
    Row("fc_norm/scale", "fc_norm.weight", "beit.pooler.layernorm.weight"),
    Row("fc_norm/bias", "fc_norm.bias", "beit.pooler.layernorm.bias"),
    Row("head/kernel", "head.weight", "classifier.weight", LINEAR),
    Row("head/bias", "head.bias", "classifier.bias"),
)

# Of towers of CLIP, by timm's names; what other libraries call them: `teacher_names`.
CLIP = (
    Row("encoder/norm_pre/scale", "norm_pre.weight", ()),
    Row("encoder/norm_pre/bias", "norm_pre.bias", ()),
    Row("encoder/projection/kernel", "head.weight", (), LINEAR),
)


def _conv_norm(ours: str, theirs: str) -> tuple[Row, ...]:
    """A convolution with batch norm, called the same officially and in transformers."""
    names = {"scale": "bn.weight", "bias": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
    norms = (Row(f"{ours}/norm/{mine}", f"{theirs}.{name}", f"{theirs}.{name}") for mine, name in names.items())
    return (Row(f"{ours}/conv/kernel", f"{theirs}.conv.weight", f"{theirs}.conv.weight", CONV), *norms)


def _layer(ours: str, theirs: str, hf: str, axes: str) -> tuple[Row, ...]:
    return Row(f"{ours}/kernel", f"{theirs}.weight", f"{hf}.weight", axes), Row(
        f"{ours}/bias", f"{theirs}.bias", f"{hf}.bias"
    )


UP = "i o y x -> y x i o"
CLASSIFIER = "o i 1 1 -> i o"
SEGMENTATION = (
    *_layer("pyramid/up_1", "backbone.fpn1.0", "fpn1.0", UP),
    *_layer("pyramid/up_2", "backbone.fpn1.3", "fpn1.3", UP),
    *_layer("pyramid/up_3", "backbone.fpn2.0", "fpn2.0", UP),
    Row("pyramid/norm/scale", "backbone.fpn1.1.weight", "fpn1.1.weight"),
    Row("pyramid/norm/bias", "backbone.fpn1.1.bias", "fpn1.1.bias"),
    Row("pyramid/norm/mean", "backbone.fpn1.1.running_mean", "fpn1.1.running_mean"),
    Row("pyramid/norm/var", "backbone.fpn1.1.running_var", "fpn1.1.running_var"),
    *(row for i in range(4) for row in _conv_norm(f"decode_head/pool_{i}", f"decode_head.psp_modules.{i}.1")),
    *(row for i in range(3) for row in _conv_norm(f"decode_head/lateral_{i}", f"decode_head.lateral_convs.{i}")),
    *(row for i in range(3) for row in _conv_norm(f"decode_head/fpn_{i}", f"decode_head.fpn_convs.{i}")),
    *_conv_norm("decode_head/bottleneck", "decode_head.bottleneck"),
    *_conv_norm("decode_head/fusion", "decode_head.fpn_bottleneck"),
    *_conv_norm("auxiliary_head/conv_0", "auxiliary_head.convs.0"),
    *(
        row
        for head in ("decode_head", "auxiliary_head")
        for row in _layer(f"{head}/classifier", f"{head}.conv_seg", f"{head}.classifier", CLASSIFIER)
    ),
)
# A VQ-KD tokenizer, which the official code alone has; its networks have the names of a classifier: see `_of_vqkd`.
VQKD = (
    Row("codebook/vectors", CODES, ()),
    Row("codebook/usage", "quantize.cluster_size", ()),
    Row("codebook/is_made", "quantize.embedding.initted", ()),
    *(
        row
        for half in ("encode", "decode")
        for ours, theirs in (("hidden", "0"), ("out", "2"))
        for row in _layer(f"{half}_head/{ours}", f"{half}_task_layer.{theirs}", "", LINEAR)
    ),
)
# What the official quantizer stores beside its codes: their first values, which it does not read again.
QUANTIZER_BUFFERS = {
    "codebook/vectors": "quantize.embedding.embed_avg",
    "codebook/usage": "quantize.embedding.cluster_size",
}
# Of BEiT v2's pre-training, which the official code alone has; its additional blocks have the names of the others.
AGGREGATION = (
    Row("aggregation_norm/scale", "cls_pt_norm.weight", ()),
    Row("aggregation_norm/bias", "cls_pt_norm.bias", ()),
    *_layer("aggregation_lm_head", "cls_pt_lm_head", "", LINEAR),
)
ADDITIONAL, ADDITIONAL_UNILM = "aggregation_blocks/", "cls_pt_layers."
STACKED = (OURS, ADDITIONAL, "decoder/blocks/")
BY_NAME = {row.ours: row for row in (*ROWS, *CLIP, *SEGMENTATION, *VQKD, *AGGREGATION)}

# No parameters: an index that follows from the size of the grid, a counter that nothing reads, and the quantizer's.
BUFFERS = re.compile(r"(relative_position_index|num_batches_tracked|quantize\.embedding\.(embed_avg|cluster_size))$")


class Counterpart(NamedTuple):
    """The tensors that hold one of our parameters: `names[block][part]`; `stacked`: whether blocks are an axis."""

    names: list[list[str]]
    stacked: bool
    axes: str


def counterpart(name: str, depth: int, layout: Layout, task: str) -> Counterpart:
    """The tensors of a layout that hold one of our parameters.

    Args:
      name: ours, flattened.
      depth: number of blocks.
      layout: of the other library.
      task: of the model; one with a layout in `layouts`.

    Raises:
      KeyError: a parameter that no row names.
    """
    if layout == "dalle":
        part, *layer, kind = name.split("/")
        layer += ["conv"] * (layer == ["output"])
        return Counterpart(
            [[".".join([part, "blocks", *layer, kind[0].replace("k", "w")])]], False, CONV * (kind == "kernel")
        )
    row = _row(name, layout, task)
    theirs = (row.unilm,) if layout == "unilm" else (row.hf,) if isinstance(row.hf, str) else row.hf
    if layout == "unilm" and name.startswith("encoder/"):
        theirs = tuple(f"{task_layout(task).unilm_prefix}{one}" for one in theirs)
    stacked, norm = name.startswith(STACKED), task_layout(task).hf_norm
    names = [[one.format(i, norm=norm) for one in theirs] for i in range(depth if stacked else 1)]
    return Counterpart(names, stacked, row.axes)


def counterparts(params: Mapping[str, Any], layout: Layout, task: str) -> Iterator[tuple[str, Counterpart]]:
    """The counterpart of every parameter of a flattened tree of arrays or shapes."""
    for name, leaf in params.items():
        yield name, counterpart(name, leaf.shape[0] if name.startswith(STACKED) else 1, layout, task)


def _row(name: str, layout: Layout, task: str) -> Row:
    if (layout, task) == ("unilm", "tokenizer"):
        return _of_vqkd(name)
    if name.startswith(ADDITIONAL):
        row = BY_NAME[OURS + name.removeprefix(ADDITIONAL)]
        return row._replace(ours=name, unilm=row.unilm.replace("blocks.", ADDITIONAL_UNILM, 1), hf=())
    return BY_NAME[name]


def _of_vqkd(name: str) -> Row:
    """The row of a parameter of VQ-KD, whose networks are official encoders with the norm of a classifier."""
    network, _, rest = name.partition("/")
    if network not in ("encoder", "decoder"):
        return BY_NAME[name]
    row = BY_NAME[f"fc_{rest}" if rest.startswith("norm/") else f"encoder/{rest}"]
    return row._replace(ours=name, unilm=f"{network}.{row.unilm}")


def to_layout(params: Mapping[str, Any], layout: Layout, task: str) -> dict[str, Any]:
    """Our flattened parameters under the names and with the axes of a layout."""
    out, sizes = {}, _sizes(params)
    for name, theirs in counterparts(params, layout, task):
        there, _, here = theirs.axes.partition(" -> ")
        for names, leaf in zip(theirs.names, params[name] if theirs.stacked else [params[name]], strict=True):
            tensor = rearrange(leaf, f"{here} -> {there}", **_named(sizes, here)) if here else leaf
            rows = tensor.shape[0] // len(names) if len(names) > 1 else 0
            for i, part in enumerate(names):
                out[part] = tensor[i * rows : (i + 1) * rows] if rows else tensor
    return out


def from_layout(
    state: Mapping[str, np.ndarray], shapes: Mapping[str, Any], layout: Layout, task: str
) -> dict[str, Any]:
    """Our flattened parameters from tensors whose names and shapes were checked (`shapes_in`).

    Args:
      state: tensors by their names in the layout.
      shapes: of our flattened parameters.
      layout: of `state`.
      task: see `counterpart`.
    """
    out, sizes = {}, _sizes(shapes)
    for name, theirs in counterparts(shapes, layout, task):
        blocks = []
        for names in theirs.names:
            parts = [state[part] for part in names]
            tensor = np.concatenate(parts) if len(parts) > 1 else parts[0]
            blocks.append(rearrange(tensor, theirs.axes, **_named(sizes, theirs.axes)) if theirs.axes else tensor)
        out[name] = np.stack(blocks) if theirs.stacked else np.ascontiguousarray(blocks[0])
    return out


def _sizes(params: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of axes that names of tensors do not tell: heads h, and the n = 3 parts of a projection."""
    biases = params.get(OURS + "attn/q_bias")
    return {} if biases is None else {"h": biases.shape[1], "n": 3}


def _named(sizes: Mapping[str, int], axes: str) -> dict[str, int]:
    """The sizes of the axes that an expression names."""
    return {axis: size for axis, size in sizes.items() if axis in re.findall(r"\w+", axes)}


def buffers(params: Mapping[str, Any], layout: Layout, task: str) -> dict[str, np.ndarray]:
    """What checkpoints hold beside parameters: int64 indices `[n+1, n+1]` of tables (official code), and counters."""
    out = {}
    for name, theirs in counterparts(params, layout, task):
        if name.endswith("relative_position/table") and layout == "unilm":
            side = (math.isqrt(params[name].shape[-2] - 3) + 1) // 2
            index = relative_position_index((side, side)).astype(np.int64)
            out |= {table.replace("_bias_table", "_index"): index for (table,) in theirs.names}
        if name in QUANTIZER_BUFFERS:
            out[QUANTIZER_BUFFERS[name]] = np.asarray(params[name])
        if name.endswith("norm/mean"):
            ((mean,),) = theirs.names
            out[mean.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    return out


def shapes_in(shapes: Mapping[str, Any], layout: Layout, task: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a checkpoint of the layout holds for a model of these flattened shapes."""
    out = jax.eval_shape(lambda params: to_layout(params, layout, task), dict(shapes))
    return {name: tuple(leaf.shape) for name, leaf in out.items()}
