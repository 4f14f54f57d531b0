"""Keys of the tokenizer `random_projection`; a code has 16 numbers and there are 8192 in the paper (2202.01855)."""

from beit_jax.config.keys import Key, Keys

KEYS: Keys = dict(
    vocab=Key(8192, "number of tokens", at_least=2),
    patch=Key(16, "pixels along the side of the square that a token stands for", at_least=1),
    code_width=Key(16, "numbers in a code", at_least=1),
)
