"""The sizes of encoders, and other names that configs choose from; imports no JAX."""

import dataclasses
import re

from beit_jax.errors import UserError

# What the backward pass may keep instead of recomputing: those of `jax.checkpoint_policies` that need no arguments.
REMAT_POLICIES = (
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
    "everything_saveable",
    "nothing_saveable",
)

# What computes attention: JAX, a kernel for TPUs (`tpu_attention`), or cuDNN (`gpu_attention`).
ATTENTIONS = ("plain", "pallas", "cudnn")

# What features are of the tokens after a block: see `tasks.encoder.layer_features`.
FEATURE_KINDS = ("mean", "cls", "cls_mean", "patches")

# Of layer norms: the gradient of one of equal numbers, as in a patch of one colour, has a factor of epsilon ** -1.5.
SMALLEST_EPSILON = 1e-20


@dataclasses.dataclass(frozen=True)
class Variant:
    """Width d, number of blocks and number of attention heads of an encoder."""

    width: int
    depth: int
    heads: int


# B and L are the paper's (section 2.5); Ti and S take DeiT's widths, as the authors advise in microsoft/unilm#1356;
# Nano and Micro are ours, for laptops and tests.
VARIANTS: dict[str, Variant] = {
    "Micro": Variant(width=32, depth=2, heads=2),
    "Nano": Variant(width=64, depth=4, heads=4),
    "Ti": Variant(width=192, depth=12, heads=3),
    "S": Variant(width=384, depth=12, heads=6),
    "B": Variant(width=768, depth=12, heads=12),
    "L": Variant(width=1024, depth=24, heads=16),
}


def parse(name: str) -> tuple[Variant, int]:
    """Splits a name such as `B/16` or `512x8x8/16` into the variant and the side of a patch in pixels."""
    size, _, patch = name.partition("/")
    sizes = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", size)
    variant = VARIANTS.get(size) or (Variant(*map(int, sizes.groups())) if sizes else None)
    if variant is None or variant.width % variant.heads or not patch.isdecimal() or int(patch) == 0:
        raise UserError(
            f"found the model variant {name!r}, expected SIZE/PATCH such as 'B/16': choose SIZE from "
            f"{', '.join(VARIANTS)}, or give WIDTHxDEPTHxHEADS with heads that divide the width; PATCH is the side of "
            "a patch in pixels"
        )
    return variant, int(patch)


def name_of(variant: Variant, patch: int) -> str:
    """The inverse of `parse`."""
    known = {known: name for name, known in VARIANTS.items()}
    return f"{known.get(variant, f'{variant.width}x{variant.depth}x{variant.heads}')}/{patch}"
