"""Keys of the tokenizer `vqkd` of BEiT v2. Sizes are those of the recommended published one (official TOKENIZER.md)."""

from ml_collections import ConfigDict

from beit_jax.config import first_batch, teacher
from beit_jax.config.encoder import DTYPES, UNROLL
from beit_jax.config.keys import Key, Keys
from beit_jax.models import vqkd_sizes

KEYS: Keys = dict(
    variant=Key("B/16", "SIZE/PATCH of the encoder; the decoder has its width and heads"),
    vocab=Key(8192, "number of tokens", at_least=2),
    code_width=Key(32, "numbers in a code", at_least=1),
    decoder_depth=Key(3, "blocks of the decoder; published: 1 and 3", at_least=1),
    target_width=Key(
        0, "numbers that the teacher has for a patch, 512 of CLIP B/16; 0: those of the teacher", at_least=0
    ),
)

LOSS_KEYS: Keys = dict(
    commitment=Key(1.0, "weight of the distance between vectors and codes", at_least=0),
    decay=Key(0.99, "of the moving averages that codes follow", at_least=0, below=1),
    revive_below=Key(
        0.0, "codes used less than this, in units of the mean use, become vectors of the batch; 0: none", at_least=0
    ),
    dtype=Key(
        "auto",
        "of matrix products in training, also of the teacher; auto: bfloat16 on accelerators, float32 on CPU",
        choices=DTYPES,
    ),
    unroll=UNROLL,
)

SECTIONS: Keys = dict(teacher=teacher.KEYS)


def check(config: ConfigDict) -> None:
    """See `first_batch.check`."""
    first_batch.check(config, vqkd_sizes.stride(config.model))
