"""Keys of the task `pretrain_pixels`: masked image modelling on pixels, an ablation of the paper."""

from beit_jax.config.encoder import encoder_keys
from beit_jax.config.evals import evals_keys
from beit_jax.config.keys import Keys
from beit_jax.config.pretrain import check_masking, masking_keys

KEYS: Keys = dict(model=encoder_keys("shared"), **masking_keys(), evals=evals_keys())
check = check_masking
