"""The kinds of tokenizers that configs can name, and the keys of each."""

import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict

from beit_jax.config import dvae
from beit_jax.config.keys import Keys
from beit_jax.errors import UserError
from beit_jax.models import dvae_sizes


@dataclasses.dataclass(frozen=True)
class TokenizerKeys:
    """What a kind of tokenizer declares.

    Attributes:
      keys: of its network, in the section `model` of its own task and `tokenizer` of pre-training.
      loss_keys: of its training, in the section `loss` of its own task.
      stride: from the section to the pixels along the side of the square that a token stands for.
    """

    keys: Keys
    loss_keys: Keys
    stride: Callable[[ConfigDict], int]


_KINDS = {"dvae": TokenizerKeys(dvae.KEYS, dvae.LOSS_KEYS, dvae_sizes.stride)}
BUILT_IN = frozenset(_KINDS)


def register(kind: str, declared: TokenizerKeys) -> None:
    """Makes a kind known to configs; `tasks.register_tokenizer` calls this.

    Raises:
      UserError: the library has a kind of that name.
    """
    if kind in BUILT_IN:
        raise UserError(f"the library has a tokenizer {kind!r} of its own; choose another name to register yours")
    _KINDS[kind] = declared


def find(kind: str) -> TokenizerKeys:
    """
    Raises:
      UserError: the kind is unknown.
    """
    if kind not in _KINDS:
        raise UserError(
            f"the tokenizer kind {kind!r} is unknown; expected one of {', '.join(_KINDS)}, or one of a file of your "
            "own that the config loads (or --plugin=FILE)"
        )
    return _KINDS[kind]


def stride(section: ConfigDict) -> int:
    """Pixels along the side of the square that a token of a config's section stands for."""
    return find(section.kind).stride(section)


def kind_of(config: ConfigDict) -> str:
    """The kind of tokenizer that a config names; "dvae" if it has no tokenizer, where the kind changes nothing."""
    section = config.get("tokenizer", None) or config.get("model", None) or {}
    return section.get("kind", "dvae")
