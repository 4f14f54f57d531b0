"""Finds the state dict in what a file holds, and calls its tensors by the names that the libraries publish.

Training scripts wrap models (`module.` of DataParallel, `_orig_mod.` of `torch.compile`, `model.` of Lightning), nest
the state dict beside the state of the run, and keep averaged weights beside it. transformers 5 has names in memory that
differ from those in its files, and calls the blocks of data2vec like those of BEiT, under another prefix.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beit_jax.convert import data2vec, safetensors_file, shards, torch_reader
from beit_jax.convert.pickle_interpreter import Record
from beit_jax.convert.torch_storages import StoredTensor
from beit_jax.errors import UserError

NESTS = ("model", "module", "state_dict", "model_state_dict")
DEEPEST_NEST = 3  # fine-tuned models of BEiT v2 lie under `module` within `model`
AVERAGED = ("model_ema", "state_dict_ema", "ema")  # of the same names; taken only where nothing else is there
INNER_WRAPPERS = re.compile(r"(^|\.)(?:module|_orig_mod)\.")
OUTER_WRAPPERS = ("model.", "net.")  # taken off where all names have them
STATISTICS_FLAG = "imagenet_default_mean_and_std"  # of the official code

# Names in the memory of transformers 5, as regular expressions, and those in its files; it writes the former to files,
# too, for a segmentation of data2vec.
IN_MEMORY = re.compile(r"^(?:beit\.)?layers\.\d+\.|\.convolution\.")
PUBLISHED = (
    (r"^beit\.layers\.(\d+)\.", r"beit.encoder.layer.\1."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^(beit\.encoder\.layer\.\d+)\.relative_position_bias\.", r"\1.attention.attention.relative_position_bias."),
    (r"^beit\.shared_position_bias\.", "beit.encoder.relative_position_bias."),
    (r"^fpn\.fpn1\.conv_transpose1\.", "fpn1.0."),
    (r"^fpn\.fpn1\.normalization\.", "fpn1.1."),
    (r"^fpn\.fpn1\.conv_transpose2\.", "fpn1.3."),
    (r"^fpn\.fpn2\.", "fpn2.0."),
    (r"\.psp_modules\.blocks\.(\d+)\.conv\.", r".psp_modules.\1.1."),
    (r"\.psp_bottleneck\.", ".bottleneck."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".bn."),
)


class StateDict(NamedTuple):
    """The tensors of a file, floats in float32, and what the file says of them.

    Attributes:
      tensors: by their published names.
      arguments: of the run that wrote the file, where it states them: `architecture` and `model_args`, as in a
        `config.json` of timm, and `statistics` of pixels, by name.
      notes: lines for the user.
    """

    tensors: dict[str, np.ndarray]
    arguments: dict[str, Any]
    notes: list[str]


def read_torch(path: Path) -> StateDict:
    """Reads a file of PyTorch: a state dict, a nest that training scripts write, or a pickled module of OpenAI's dVAE.

    Raises:
      UserError: see `torch_reader.read_tensors`; or the file holds no named tensors.
    """
    said = StateDict({}, {}, [])
    tensors = torch_reader.read_tensors(path, lambda content: choose_nest(content, said))
    if not tensors:
        raise UserError(f"{path} holds no named tensors; expected a state dict, alone or under {', '.join(NESTS)}")
    return named_as_published(tensors, path)._replace(arguments=said.arguments, notes=said.notes)


def read_shards(index: Path) -> StateDict:
    """Reads the files of an index, of safetensors or of PyTorch.

    Raises:
      UserError: see `shards.read_tensors`.
    """
    said = StateDict({}, {}, [])

    def of_torch(file: Path) -> dict[str, np.ndarray]:
        return torch_reader.read_tensors(file, lambda content: choose_nest(content, said))

    is_torch = ".safetensors" not in index.suffixes
    tensors = shards.read_tensors(index, of_torch if is_torch else safetensors_file.read_tensors)
    return named_as_published(tensors, index)._replace(arguments=said.arguments, notes=said.notes)


def choose_nest(content: Any, said: StateDict) -> Any:
    """The part of a file's content that holds the tensors; what the file says of them is added to `said`."""
    said.arguments.update(_arguments(content))
    nests = {key: state for key in (*NESTS, *AVERAGED) if (state := _state_under(content, key)) is not None}
    if others := ", ".join([*nests][1:]):
        said.notes.append(f"taken are the weights under {next(iter(nests))}, not those under {others}")
    return next(iter(nests.values()), content)


def named_as_published(tensors: Mapping[str, np.ndarray], path: Path) -> StateDict:
    """The tensors without the prefixes of wrappers, by the names in the libraries' own files.

    Raises:
      UserError: two tensors would have the same name.
    """
    names = {name: unwrapped(name) for name in tensors}
    for prefix in OUTER_WRAPPERS:
        if all(name.startswith(prefix) for name in names.values()):
            names = {name: plain.removeprefix(prefix) for name, plain in names.items()}
    names = {name: re.sub(f"^{re.escape(data2vec.PREFIX)}", "beit.", plain) for name, plain in names.items()}
    if "embeddings.cls_token" in names.values():  # transformers' encoder alone
        names = {name: f"beit.{plain}" for name, plain in names.items()}
    if any(IN_MEMORY.search(name) for name in names.values()):
        names = {name: _published(plain) for name, plain in names.items()}
    out = {plain: tensors[name] for name, plain in names.items()}
    if len(out) < len(names):
        raise UserError(f"{path} holds some tensors twice, with and without a prefix such as module.; expected one set")
    return StateDict(out, {}, [])


def _state_under(content: Any, key: str, depth: int = 1) -> Any:
    """The tensors under a key, or under one of `NESTS` within it; None where there are none."""
    found = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    if any(type(value) is StoredTensor for value in found.values()):
        return found
    inner = (_state_under(found, nest, depth + 1) for nest in NESTS) if depth < DEEPEST_NEST else ()
    return next((state for state in inner if state is not None), None)


def unwrapped(name: str) -> str:
    """The name of a tensor without the prefixes of wrappers, which may be within it."""
    while (plain := INNER_WRAPPERS.sub(r"\1", name)) != name:  # wrappers around wrappers
        name = plain
    return name


def _published(name: str) -> str:
    for pattern, replacement in PUBLISHED:
        name = re.sub(pattern, replacement, name)
    return name


def _arguments(content: Any) -> dict[str, Any]:
    """What the official code and timm's script write beside the weights (`args`, `arch`)."""
    if not isinstance(content, Mapping):
        return {}
    args = content.get("args")
    args = args.state if type(args) is Record else args
    args = args if isinstance(args, Mapping) else {}
    out = {"architecture": content.get("arch", args.get("model")), "model_args": args.get("model_kwargs")}
    if isinstance(args.get(STATISTICS_FLAG), bool):
        out["statistics"] = "imagenet" if args[STATISTICS_FLAG] else "inception"
    kinds = {"architecture": str, "model_args": Mapping, "statistics": str}
    return {key: value for key, value in out.items() if isinstance(value, kinds[key])}
