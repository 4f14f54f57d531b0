"""Keys of the tokenizer `dvae`: the discrete variational autoencoder of DALL-E, which the official code uses.

Sizes are those of the published weights, the settings of its training those of appendix A.2 of the DALL-E paper.
"""

from beit_jax.config.durations import check_duration
from beit_jax.config.keys import Key, Keys

KEYS: Keys = dict(
    vocab=Key(8192, "number of tokens", at_least=1),
    # A residual block narrows its channels to a quarter of them.
    hidden=Key(256, "width of the encoder's first group and of the decoder's last", at_least=4),
    groups=Key(4, "groups of blocks; a token covers 2^(groups - 1) pixels a side", at_least=1, at_most=8),
    blocks_per_group=Key(2, "residual blocks in a group", at_least=1),
    decoder_init=Key(128, "width of the codebook's vectors", at_least=1),
)

LOSS_KEYS: Keys = dict(
    kl_weight=Key(6.6, "final weight of the KL term", at_least=0),
    kl_warmup=Key(
        "5000 steps", "how long that weight grows from 0; also '10 epochs', '5%' of the run", check=check_duration
    ),
    # The softmax divides by it: at much lower ones logits are infinite.
    temperature_start=Key(1.0, "first temperature of the Gumbel-softmax", at_least=1e-6),
    temperature_end=Key(1 / 16, "last temperature", at_least=1e-6),
    annealing=Key(
        "150000 steps", "from the first temperature to the last; also '10 epochs', '5%'", check=check_duration
    ),
    straight_through=Key(False, "whether the decoder sees one-hot codes"),
)
