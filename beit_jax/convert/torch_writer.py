"""Writes with PyTorch itself: files for libraries that read them, and models to compare with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beit_jax import extras
from beit_jax.errors import UserError


def to_tensor(value: np.ndarray) -> Any:
    """A PyTorch tensor of an array; needs torch.

    Raises:
      UserError: torch is not installed.
    """
    extras.check_installed("torch")
    import torch

    return torch.from_numpy(np.array(value, order="C"))


def save_nested(path: Path, state: Mapping[str, np.ndarray], nest: str) -> None:
    """Writes `{nest: state}`, as the official code does."""
    tensors = {name: to_tensor(value) for name, value in state.items()}
    import torch

    with path.open("wb") as file:  # of a path, torch does not say that the disk is full
        torch.save({nest: tensors}, file)


def dalle_modules(state: Mapping[str, np.ndarray], sizes: Mapping[str, Any]) -> tuple[Any, Any]:
    """The package `dall_e`'s encoder and decoder, in evaluation mode.

    Args:
      state: of both, in the layout "dalle".
      sizes: `vocab`, `hidden`, `groups`, `blocks_per_group`, `decoder_init`.

    Raises:
      UserError: `dall_e` is not installed, or has no such size.
    """
    extras.check_installed("torch", "dall_e")
    import dall_e

    if sizes["groups"] != 4:
        raise UserError(f"model.groups={sizes['groups']}; OpenAI's dVAE has 4 groups, and no other number")
    same = dict(n_hid=sizes["hidden"], vocab_size=sizes["vocab"], n_blk_per_group=sizes["blocks_per_group"])
    encoder, decoder = dall_e.Encoder(**same), dall_e.Decoder(**same, n_init=sizes["decoder_init"])
    for part, module in (("encoder.", encoder), ("decoder.", decoder)):
        own = {name.removeprefix(part): to_tensor(value) for name, value in state.items() if name.startswith(part)}
        module.load_state_dict(own)
    return encoder.eval(), decoder.eval()


def save_dalle(folder: Path, state: Mapping[str, np.ndarray], sizes: Mapping[str, Any]) -> None:
    """Writes pickled modules, `encoder.pkl` and `decoder.pkl`, as OpenAI published them; see `dalle_modules`."""
    modules = dalle_modules(state, sizes)
    import torch

    for name, module in zip(("encoder.pkl", "decoder.pkl"), modules):
        with (folder / name).open("wb") as file:
            torch.save(module, file)
