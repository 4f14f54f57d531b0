"""The names of teachers' tensors in files of OpenAI, open_clip, transformers, timm and DINO.

All of them become those of timm, which are the names "unilm" of `names`, with a norm before the blocks and a projection
where it is a tower of CLIP. The bias of keys, which the softmax cancels, is left out.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from beit_jax.convert import names
from beit_jax.convert.pretrained import check_names
from beit_jax.errors import UserError

TASK = "teacher"  # of `names`: no task has this name, and no library a prefix for it
CLIP_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

# timm's names: those of OpenAI and open_clip, and those of transformers' CLIP.
OUTER = {
    "cls_token": ("class_embedding", "embeddings.class_embedding"),
    "pos_embed": ("positional_embedding", "embeddings.position_embedding.weight"),
    "patch_embed.proj.weight": ("conv1.weight", "embeddings.patch_embedding.weight"),
    "norm_pre.weight": ("ln_pre.weight", "pre_layrnorm.weight"),
    "norm_pre.bias": ("ln_pre.bias", "pre_layrnorm.bias"),
    "norm.weight": ("ln_post.weight", "post_layernorm.weight"),
    "norm.bias": ("ln_post.bias", "post_layernorm.bias"),
    "head.weight": ("proj", "visual_projection.weight"),
}
INNER = {  # of a block; a weight and a bias each
    "norm1": ("ln_1.", "layer_norm1."),
    "norm2": ("ln_2.", "layer_norm2."),
    "attn.qkv": ("attn.in_proj_", tuple(f"{part}." for part in CLIP_ATTENTION)),
    "attn.proj": ("attn.out_proj.", "self_attn.out_proj."),
    "mlp.fc1": ("mlp.c_fc.", "mlp.fc1."),
    "mlp.fc2": ("mlp.c_proj.", "mlp.fc2."),
}
PROJECTIONS = ("proj", "visual.proj", "visual_projection.weight", "head.weight", "head.bias")  # with files' prefixes
BLOCKS = ("transformer.resblocks.", "encoder.layers.")
# What lies beside the tower: the texts' tower, what joins both, and numbers of positions.
IGNORED = re.compile(
    r"(?:text|text_model|transformer|token_embedding|ln_final)\.|(?:positional_embedding|text_projection(?:\.weight)?)$"
    r"|logit_(?:scale|bias)$"
)
BUFFERS = re.compile(r"(?:^|\.)(?:position_ids|input_resolution|context_length|vocab_size)$")  # integers, not weights


class Tower(NamedTuple):
    """The tensors of a tower of CLIP by the names in its file, without prefixes.

    Attributes:
      tensors: with these names.
      library: "openai", "hf" or "timm", whose names they are.
    """

    tensors: dict[str, np.ndarray]
    library: Literal["openai", "hf", "timm"]

    def spelled(self, name: str) -> list[str]:
        """What timm's `name` is in the file: one tensor, or three for queries, keys and values."""
        if self.library == "timm":
            return [name]
        column = 0 if self.library == "openai" else 1
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if not block:
            return [OUTER[name][column]]
        number, stem, end = block.groups()
        found = INNER[stem][column]
        return [f"{BLOCKS[column]}{number}.{one}{end}" for one in ([found] if isinstance(found, str) else found)]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor that timm calls `name`; () if there is none."""
        value = self.tensors.get(self.spelled(name)[0])
        return () if value is None else value.shape

    def depth(self) -> int:
        """The number of blocks."""
        first = self.spelled("blocks.0.norm1.weight")[0]
        pattern = re.compile(re.escape(first).replace(r"\.0\.", r"\.(\d+)\."))
        return 1 + max((int(match[1]) for match in map(pattern.fullmatch, self.tensors) if match), default=-1)

    def shapes(self, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Names and shapes in the file of what timm calls `name`, and gives this shape."""
        if self.library != "timm" and name == "cls_token":
            shape = shape[-1:]
        elif self.library != "timm" and name == "pos_embed":
            shape = shape[1:]
        elif self._is_transposed(name):
            shape = shape[::-1]
        parts = self.spelled(name)
        return {part: (shape[0] // len(parts), *shape[1:]) for part in parts}

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor that timm calls `name`, with timm's shape."""
        parts = [self.tensors[part] for part in self.spelled(name)]
        value = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return value.T if self._is_transposed(name) else value.reshape(shape)

    def _is_transposed(self, name: str) -> bool:
        return self.library == "openai" and name == "head.weight"


def find_tower(state: Mapping[str, np.ndarray], where: str) -> Tower:
    """The tower of CLIP in a file.

    Raises:
      UserError: there is none.
    """
    if any(name.startswith("visual.") for name in state):
        inner = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
        beside = [name for name in state if not name.startswith("visual.")]
        return Tower(inner | {name: state[name] for name in beside if not IGNORED.match(name)}, "openai")
    plain = {name.removeprefix("vision_model."): value for name, value in state.items()}
    if "embeddings.class_embedding" in plain:
        return Tower({name: value for name, value in plain.items() if not IGNORED.match(name)}, "hf")
    if "class_embedding" in state:
        return Tower(dict(state), "openai")
    if "norm_pre.weight" in state:
        return Tower(_without_empty_bias(state, where), "timm")
    some = ", ".join(sorted(state)[:4])
    raise UserError(
        f"{where} holds no visual tower of CLIP (its tensors: {some}, ...); expected one of OpenAI, open_clip, "
        "transformers or timm, or another teacher.kind"
    )


def _without_empty_bias(state: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """timm's projection has a bias of zeros; the head of a classifier has others."""
    if np.any(state.get("head.bias", 0)):
        raise UserError(f"{where} is a classifier, whose head is no projection; teacher.projection=0 leaves it out")
    return {name: value for name, value in state.items() if name != "head.bias"}


def clip_params(tower: Tower, shapes: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    """Our flattened parameters.

    Args:
      tower: of a file.
      shapes: of our flattened parameters.
      where: name of the file, for messages.

    Raises:
      UserError: lists every missing, unexpected and mis-shaped tensor.
    """
    expected = _full_biases(names.shapes_in(shapes, "unilm", TASK))
    theirs = {part: size for name, shape in expected.items() for part, size in tower.shapes(name, shape).items()}
    check_names(tower.tensors, theirs, where, "CLIP")
    state = {name: tower.read(name, shape) for name, shape in expected.items()}
    return names.from_layout(_split_biases(state), shapes, "unilm", TASK)


def dino_params(
    state: Mapping[str, np.ndarray], shapes: Mapping[str, Any], layout: names.Layout, where: str
) -> dict[str, np.ndarray]:
    """Our flattened parameters, from tensors by the names of DINO and timm ("unilm"), or of transformers ("hf").

    Raises:
      UserError: lists every missing, unexpected and mis-shaped tensor.
    """
    expected = names.shapes_in(shapes, layout, "classify")
    if layout == "hf":
        state = {name: value for name, value in state.items() if not re.match(r"beit\.pooler\.dense\.", name)}
        keys = {name.replace("query", "key"): shape for name, shape in expected.items() if name.endswith("query.bias")}
        check_names(state, expected | keys, where, "DINO")
        return names.from_layout(state, shapes, layout, "classify")
    check_names(state, _full_biases(expected), where, "DINO")
    return names.from_layout(_split_biases(state), shapes, layout, "classify")


def _full_biases(expected: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes with one bias of queries, keys and values in place of two."""
    out = {name: shape for name, shape in expected.items() if not name.endswith(("attn.q_bias", "attn.v_bias"))}
    biases = {name: shape for name, shape in expected.items() if name.endswith("attn.q_bias")}
    return out | {name.replace("q_bias", "qkv.bias"): (3 * width,) for name, (width,) in biases.items()}


def _split_biases(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse: the bias of keys is left out."""
    out = dict(state)
    for name in [name for name in state if name.endswith("attn.qkv.bias")]:
        query, _, value = np.split(out.pop(name), 3)
        out |= {name.replace("qkv.bias", "q_bias"): query, name.replace("qkv.bias", "v_bias"): value}
    return out
