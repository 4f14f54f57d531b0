"""The kinds of tokenizers that configs can name, and the keys of each."""

import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict

from beit_jax.config import dvae, kmeans, random_projection, vqkd
from beit_jax.config.keys import Keys
from beit_jax.config.registry import Registry
from beit_jax.models import dvae_sizes, vqkd_sizes


@dataclasses.dataclass(frozen=True)
class TokenizerKeys:
    """What a kind of tokenizer declares.

    Attributes:
      keys: of its network, in the section `model` of its own task and `tokenizer` of pre-training.
      loss_keys: of its training, in the section `loss` of its own task.
      sections: that its training has beside `model` and `loss`.
      stride: from the section to the pixels along the side of the square that a token stands for.
      check: raises UserError if values of a config of its training do not go together.
    """

    keys: Keys
    loss_keys: Keys
    stride: Callable[[ConfigDict], int]
    sections: Keys = dataclasses.field(default_factory=dict)
    check: Callable[[ConfigDict], None] = lambda config: None


def _patch(section: ConfigDict) -> int:
    return section.patch


KINDS = Registry(
    "tokenizer kind",
    {
        "dvae": TokenizerKeys(dvae.KEYS, dvae.LOSS_KEYS, dvae_sizes.stride),
        "vqkd": TokenizerKeys(vqkd.KEYS, vqkd.LOSS_KEYS, vqkd_sizes.stride, vqkd.SECTIONS, vqkd.check),
        "kmeans": TokenizerKeys(kmeans.KEYS, {}, _patch, check=kmeans.check),
        "kmeans_features": TokenizerKeys(kmeans.OF_FEATURES, {}, _patch, vqkd.SECTIONS, kmeans.check),
        "random_projection": TokenizerKeys(random_projection.KEYS, {}, _patch),
    },
)


def stride(section: ConfigDict) -> int:
    """Pixels along the side of the square that a token of a config's section stands for."""
    return KINDS.find(section.kind).stride(section)


def kind_of(config: ConfigDict) -> str:
    """The kind of tokenizer that a config names; "dvae" if it has no tokenizer, where the kind changes nothing."""
    section = config.get("tokenizer", None) or config.get("model", None) or {}
    return section.get("kind", "dvae")
