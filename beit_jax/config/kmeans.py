"""Keys of the tokenizers `kmeans` and `kmeans_features`."""

from ml_collections import ConfigDict

from beit_jax.config import teacher
from beit_jax.config.first_batch import check_first_batch
from beit_jax.config.keys import Key, Keys
from beit_jax.errors import Mistakes

KEYS: Keys = dict(
    vocab=Key(8192, "number of tokens", at_least=2),
    patch=Key(16, "pixels along the side of the square that a token stands for", at_least=1),
)

# In training they are those of the section `teacher`, and later those of the tokenizer's run.
OF_FEATURES: Keys = KEYS | dict(features={name: key for name, key in teacher.KEYS.items() if name != "path"})


def check(config: ConfigDict) -> None:
    """Checks the training on pixels.

    Raises:
      UserError: the first batch has fewer patches than there are codes.
    """
    check_first_batch(config, config.model.patch)


def check_features(config: ConfigDict) -> None:
    """Checks the training on features.

    Raises:
      UserError: the first batch has fewer patches than there are codes, or the teacher's sizes do not fit each other.
    """
    mistakes = Mistakes()
    with mistakes.collected():
        teacher.check_random(config.teacher)
    with mistakes.collected():
        check(config)
    mistakes.raise_all()
