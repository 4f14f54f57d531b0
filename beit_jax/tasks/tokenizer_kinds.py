"""From the section of a config to its tokenizer."""

from collections.abc import Callable

import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.config import tokenizer_kinds
from beit_jax.config.keys import Keys
from beit_jax.models.dvae_tokenizer import DvaeTokenizer
from beit_jax.models.image_size import ImageSize
from beit_jax.models.kmeans_tokenizer import FeatureKMeans, PixelKMeans
from beit_jax.models.random_projection import RandomProjection
from beit_jax.models.teacher import Teacher
from beit_jax.models.tokenizer import Tokenizer
from beit_jax.models.vqkd_tokenizer import VqkdTokenizer
from beit_jax.tasks.teachers import create_teacher

_KINDS: dict[str, type[Tokenizer]] = {
    "dvae": DvaeTokenizer,
    "vqkd": VqkdTokenizer,
    "kmeans": PixelKMeans,
    "kmeans_features": FeatureKMeans,
    "random_projection": RandomProjection,
}


def register_tokenizer(
    kind: str, *, keys: Keys, loss_keys: Keys | None = None
) -> Callable[[type[Tokenizer]], type[Tokenizer]]:
    """A decorator that makes a kind of tokenizer known to configs (`config.tokenizer.kind`).

    Args:
      kind: its name.
      keys: of its network, beside `kind`; with `vocab`, unless the class defines that itself.
      loss_keys: of its training, in the section `loss`.

    Examples:
      >>> from beit_jax.config import Key, defaults
      >>> from beit_jax.models.tokenizer import Tokenizer
      >>> from beit_jax.tasks import register_tokenizer
      >>> @register_tokenizer("bright", keys=dict(vocab=Key(2, "levels of brightness", at_least=2)))
      ... class Bright(Tokenizer):
      ...     pass
      >>> defaults("pretrain", "bright").tokenizer.vocab
      2
    """

    def add(tokenizer: type[Tokenizer]) -> type[Tokenizer]:
        tokenizer_kinds.KINDS.register(kind, tokenizer_kinds.TokenizerKeys(keys, loss_keys or {}, tokenizer.stride))
        _KINDS[kind] = tokenizer
        return tokenizer

    return add


def tokenizer_class(kind: str) -> type[Tokenizer]:
    """What a kind of tokenizer declares, such as its metrics, without a teacher, which may not be known.

    Raises:
      UserError: the kind is unknown.
    """
    tokenizer_kinds.KINDS.find(kind)
    return _KINDS[kind]


def create_tokenizer(
    section: ConfigDict,
    image_size: ImageSize,
    dtype: jnp.dtype = jnp.float32,
    settings: ConfigDict | None = None,
    teacher: Teacher | None = None,
    channels: int = 3,
) -> Tokenizer:
    """The tokenizer of a config's section; see `Tokenizer` for the arguments.

    A kind whose parameters include those of its teacher has the teacher's keys in its own section, `features`.

    Raises:
      UserError: the kind is unknown.

    Examples:
      >>> from beit_jax.config import defaults
      >>> from beit_jax.tasks import create_tokenizer
      >>> section = defaults("pretrain", "random_projection").tokenizer
      >>> tokenizer = create_tokenizer(section, image_size=32)
      >>> params = jax.jit(tokenizer.init)(jax.random.key(0))
      >>> jax.jit(tokenizer.targets)(params, tokenizer.zeros()).shape
      (1, 2, 2)
    """
    made = tokenizer_class(section.kind)
    if teacher is None and "features" in section:
        teacher = create_teacher(section.features, dtype, channels)
    return made(section, image_size, dtype, settings, teacher, channels)
