"""Keys of the tokenizers `kmeans` and `kmeans_features`."""

from ml_collections import ConfigDict

from beit_jax.config import first_batch, teacher
from beit_jax.config.keys import Key, Keys

KEYS: Keys = dict(
    vocab=Key(8192, "number of tokens", at_least=2),
    patch=Key(16, "pixels along the side of the square that a token stands for", at_least=1),
)

# In training they are those of the section `teacher`, and later those of the tokenizer's run.
OF_FEATURES: Keys = KEYS | dict(features={name: key for name, key in teacher.KEYS.items() if name != "path"})


def check(config: ConfigDict) -> None:
    """See `first_batch.check`."""
    first_batch.check(config, config.model.patch)
