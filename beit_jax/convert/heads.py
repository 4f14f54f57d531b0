"""How many attention heads a checkpoint has, which its tensors may not tell, and whether its settings fit them."""

import re
from collections.abc import Mapping
from typing import Any

from beit_jax.convert.files import Files
from beit_jax.errors import UserError
from beit_jax.models import variants

# By names such as `beit_base_patch16_224`, which the official code and timm have in common.
ARCHITECTURE = re.compile(r"beit(?:v2)?_(base|large)_")
SIZES = {"base": variants.VARIANTS["B"], "large": variants.VARIANTS["L"]}
HEADS = {variants.VARIANTS[name].width: variants.VARIANTS[name].heads for name in ("Ti", "S", "B", "L")}
POOLING = {"avg": "mean", "token": "cls"}


def heads_of(files: Files, found: Mapping[str, Any], by_table: int | None, given: int | None, where: str) -> int:
    """The number of heads: of a table of relative positions, of settings, or given.

    Args:
      files: of the checkpoint; a line about what is assumed is added to its notes.
      found: what the tensors say, by the names of timm's `model_args`.
      by_table: heads of the table of relative positions; None: there is none.
      given: by the user; None: none are.
      where: name of the checkpoint, for messages.

    Raises:
      UserError: settings contradict the tensors or each other, or nothing states the number of heads.
    """
    stated = {"its table of relative positions": by_table}
    for source, file in (("config.json", files.settings), ("the arguments of its training", files.arguments)):
        stated[source] = _check_settings(file, found, f"{where} has", source)
    stated["heads"] = given
    known = {source: heads for source, heads in stated.items() if heads is not None}
    if len(set(known.values())) > 1:
        said = ", ".join(f"{heads} by {source}" for source, heads in known.items())
        raise UserError(f"{where} has another number of attention heads by each of these: {said}; expected one")
    width = found["embed_dim"]
    heads = next(iter(known.values()), HEADS.get(width))
    if heads is None:
        raise UserError(
            f"{where} does not state its number of attention heads: it has no table of relative positions and no "
            f"config.json, and its width {width} is not one of {', '.join(map(str, HEADS))}; give it: "
            "from_pretrained(..., heads=N), or python -m beit_jax.convert SRC DST --to beit_jax --heads N"
        )
    if heads < 1 or width % heads:
        raise UserError(f"{where} has the width {width}, which {heads} attention heads do not divide")
    if not known:
        files.notes.append(f"it does not state its number of attention heads; assumed are {heads}, as of BEiT and DeiT")
    return heads


def _check_settings(file: Mapping[str, Any], found: Mapping[str, Any], has: str, source: str) -> int | None:
    """The heads that settings of timm's kind state.

    Raises:
      UserError: they contradict the tensors.
    """
    match = ARCHITECTURE.match(str(file.get("architecture", "")))
    size = SIZES[match[1]] if match else None
    stated = dict(embed_dim=size.width, depth=size.depth, num_heads=size.heads) if size else {}
    sizes = (file.get("pretrained_cfg") or {}).get("input_size")
    if isinstance(sizes, list):
        stated["img_size"] = sizes[1:]
    if "global_pool" in file:
        stated["global_pool"] = file["global_pool"]
    stated |= file.get("model_args") or {}
    for key, value in found.items():
        theirs = stated.get(key, value)
        if key in ("img_size", "patch_size") and isinstance(theirs, list) and len({*map(str, theirs)}) == 1:
            theirs = theirs[0]
        if key == "global_pool" and isinstance(theirs, str):
            theirs = POOLING.get(theirs, theirs)
        if theirs != value:
            raise UserError(f"{has} {key}={stated[key]!r} by {source}, but its tensors say {value}")
    if not isinstance(stated.get("num_heads", 1), int):
        raise UserError(f"{has} num_heads={stated['num_heads']!r} by {source}; expected a number")
    return stated.get("num_heads")
