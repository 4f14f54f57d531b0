"""Sizes of the encoder."""

import dataclasses

from beit_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Variant:
    """Width d, depth L and number of heads h; the hidden layer of the MLP has 4 d units."""

    width: int
    depth: int
    heads: int


# B and L are those of the paper. Ti and S have the widths of DeiT's, as the authors recommend (microsoft/unilm#1356).
# Nano and Micro are ours: for laptops, and for tests.
VARIANTS = {
    "Micro": Variant(width=32, depth=2, heads=2),
    "Nano": Variant(width=64, depth=4, heads=4),
    "Ti": Variant(width=192, depth=12, heads=3),
    "S": Variant(width=384, depth=12, heads=6),
    "B": Variant(width=768, depth=12, heads=12),
    "L": Variant(width=1024, depth=24, heads=16),
}


def parse(name: str) -> tuple[Variant, int]:
    """The variant and the patch size in pixels of a name such as "B/16".

    Raises:
      UserError: the name is not of that form, or the variant is unknown.
    """
    size, _, patch = name.partition("/")
    if size not in VARIANTS or not patch.isdigit() or int(patch) < 1:
        raise UserError(f"model.variant={name!r}; expected SIZE/PATCH, such as B/16, SIZE one of {', '.join(VARIANTS)}")
    return VARIANTS[size], int(patch)
