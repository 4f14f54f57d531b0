"""PyTorch's files, read without running what is in them.

A pickle is a program: it may name any function and call it. The reader here lets it name tensors and plain
containers; classes that real checkpoints hold beside them (arguments of the run, the modules of OpenAI's dVAE) become
inert records; anything else ends the reading.
"""

import collections
import importlib.util
import pickle
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beit_jax.errors import UserError

EXTENSIONS = (".bin", ".pth", ".pt", ".pkl")
NESTS = ("model", "module", "state_dict")  # where official checkpoints keep their tensors

CONTAINERS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}
TENSOR_MAKERS = {("torch._utils", name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")} | {
    ("torch", "Size"),
    ("torch", "device"),
}
INERT_MODULES = ("argparse", "dall_e", "numpy", "torch.nn.modules")


class Inert:
    """Stands for an object that is read and not wanted: takes any state, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class _RefusedError(Exception):
    """A pickle names what it has no business with."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in CONTAINERS:
            return CONTAINERS[module, name]
        if (module, name) in TENSOR_MAKERS or (module == "torch" and _is_dtype(name)):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode") or any(
            module == known or module.startswith(f"{known}.") for known in INERT_MODULES
        ):
            return Inert
        raise _RefusedError(f"{module}.{name}")


def _is_dtype(name: str) -> bool:
    import torch

    return isinstance(getattr(torch, name, None), torch.dtype)


def _restricted() -> types.ModuleType:
    """What `torch.load` takes in place of the module `pickle`."""
    module = types.ModuleType("restricted_pickle")
    module.Unpickler, module.UnpicklingError = _Unpickler, pickle.UnpicklingError
    module.load = lambda file, **options: _Unpickler(file, **options).load()
    return module


def load(path: Path) -> Any:
    """What a file holds, with tensors on the host.

    Raises:
      UserError: torch is not installed, the file is damaged, or it names something that checkpoints do not need.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError(f"{path} is a PyTorch file, and torch is not installed: pip install 'beit_jax[parity]'")
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about source code of classes, which is not looked at
            return torch.load(path, map_location="cpu", pickle_module=_restricted(), weights_only=False)
    except _RefusedError as error:
        raise UserError(
            f"{path} asks to run {error}, which no checkpoint needs; nothing of it was run. Do not trust this file"
        ) from error
    except (
        RuntimeError,
        ValueError,
        KeyError,
        EOFError,
        OSError,
        TypeError,
        AttributeError,
        pickle.PickleError,
    ) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(f"{path} cannot be read ({reason}); is it cut off? Download it again") from error


def tensors(path: Path) -> dict[str, np.ndarray]:
    """The named tensors of a file: a state dict, or a nest that official training scripts write.

    Raises:
      UserError: see `load`; or there are none.
    """
    found = load(path)
    for nest in NESTS:
        if isinstance(found, Mapping) and isinstance(found.get(nest), Mapping):
            found = found[nest]
            break
    named = found if isinstance(found, Mapping) else module_tensors(found) if isinstance(found, Inert) else {}
    out = {name: _array(value) for name, value in named.items() if _is_tensor(value)}
    if not out:
        raise UserError(f"{path} holds no named tensors; expected a state dict, alone or under {', '.join(NESTS)}")
    return {name.removeprefix("module."): value for name, value in out.items()}


def module_tensors(module: Inert, prefix: str = "") -> dict[str, Any]:
    """The parameters of a whole pickled module and of those in it, by their dotted names."""
    out = {f"{prefix}{name}": value for name, value in _dict(module, "_parameters").items() if value is not None}
    for name, inner in _dict(module, "_modules").items():
        out |= module_tensors(inner, f"{prefix}{name}.")
    return out


def _dict(module: Inert, name: str) -> Mapping[str, Any]:
    value = getattr(module, name, {})
    return value if isinstance(value, Mapping) else {}


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _array(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).contiguous().numpy()


def dalle_modules(state: Mapping[str, np.ndarray], sizes: Mapping[str, Any]) -> tuple[Any, Any]:
    """The package `dall_e`'s encoder and decoder, in evaluation mode.

    Args:
      state: of both, in the layout "dalle".
      sizes: `vocab`, `hidden`, `groups`, `blocks_per_group`, `decoder_init`.

    Raises:
      UserError: `dall_e` is not installed, or has no such size.
    """
    try:
        import dall_e
    except ImportError as error:
        raise UserError(f"OpenAI's layout needs torch and dall_e ({error}); pip install --no-deps dall-e") from error
    if sizes["groups"] != 4:
        raise UserError(f"model.groups={sizes['groups']}; OpenAI's dVAE has 4 groups, and no other number")
    same = dict(n_hid=sizes["hidden"], vocab_size=sizes["vocab"], n_blk_per_group=sizes["blocks_per_group"])
    encoder, decoder = dall_e.Encoder(**same), dall_e.Decoder(**same, n_init=sizes["decoder_init"])
    for part, module in (("encoder.", encoder), ("decoder.", decoder)):
        own = {name.removeprefix(part): tensor(value) for name, value in state.items() if name.startswith(part)}
        module.load_state_dict(own)
    return encoder.eval(), decoder.eval()


def save_dalle(folder: Path, state: Mapping[str, np.ndarray], sizes: Mapping[str, Any]) -> None:
    """Writes whole pickled modules, `encoder.pkl` and `decoder.pkl`, as OpenAI published them; see `dalle_modules`."""
    modules = dalle_modules(state, sizes)
    import torch

    for name, module in zip(("encoder.pkl", "decoder.pkl"), modules):
        torch.save(module, folder / name)


def save(path: Path, state: Mapping[str, np.ndarray], nest: str) -> None:
    """Writes `{nest: state}`, as the official code does."""
    try:
        import torch
    except ImportError as error:
        raise UserError("to write PyTorch's files, install torch: pip install 'beit_jax[parity]'") from error
    torch.save({nest: {name: tensor(value) for name, value in state.items()}}, path)


def tensor(value: np.ndarray) -> Any:
    """A PyTorch tensor of an array."""
    import torch

    return torch.from_numpy(np.array(value, order="C"))
