"""From the section of a config to its tokenizer."""

from collections.abc import Callable

import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.config import tokenizer_kinds
from beit_jax.config.keys import Keys
from beit_jax.models.dvae_tokenizer import DvaeTokenizer
from beit_jax.models.teacher import Teacher
from beit_jax.models.tokenizer import Tokenizer
from beit_jax.models.vqkd_tokenizer import VqkdTokenizer

_KINDS: dict[str, type[Tokenizer]] = {"dvae": DvaeTokenizer, "vqkd": VqkdTokenizer}


def register_tokenizer(
    kind: str, *, keys: Keys, loss_keys: Keys | None = None
) -> Callable[[type[Tokenizer]], type[Tokenizer]]:
    """A decorator that makes a kind of tokenizer known to configs (`config.tokenizer.kind`).

    Args:
      kind: its name.
      keys: of its network, beside `kind`; with `vocab`, unless the class defines that itself.
      loss_keys: of its training, in the section `loss`.
    """

    def add(tokenizer: type[Tokenizer]) -> type[Tokenizer]:
        tokenizer_kinds.KINDS.register(kind, tokenizer_kinds.TokenizerKeys(keys, loss_keys or {}, tokenizer.stride))
        _KINDS[kind] = tokenizer
        return tokenizer

    return add


def create_tokenizer(
    section: ConfigDict,
    image_size: int,
    dtype: jnp.dtype = jnp.float32,
    settings: ConfigDict | None = None,
    teacher: Teacher | None = None,
) -> Tokenizer:
    """The tokenizer of a config's section; see `Tokenizer` for the arguments.

    Raises:
      UserError: the kind is unknown.
    """
    tokenizer_kinds.KINDS.find(section.kind)
    return _KINDS[section.kind](section, image_size, dtype, settings, teacher)
