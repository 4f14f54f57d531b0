"""The models, weights and inputs whose outputs by the reference libraries are stored in `tests/golden/beit.npz`."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
from beit_references import Tree, random_parameters

from beit_jax.models import classifier as classifiers
from beit_jax.models import dvae, heads, vit

SIDE, CLASSES = 16, 17
ENCODER = dict(width=32, depth=2, heads=2, patch_size=4)
TOKENIZER = dict(vocab=24, hidden=8, decoder_init=6)


def images() -> np.ndarray:
    """Normalised, float32 `[2, 16, 16, 3]`."""
    return np.random.default_rng(10).standard_normal((2, SIDE, SIDE, 3)).astype(np.float32)


def mask() -> np.ndarray:
    """bool `[2, 4, 4]`."""
    return np.random.default_rng(11).random((2, SIDE // 4, SIDE // 4)) < 0.4


def pixels() -> np.ndarray:
    """For the tokenizer, float32 `[1, 16, 16, 3]` in [0.1, 0.9]."""
    return 0.1 + 0.8 * np.random.default_rng(12).random((1, SIDE, SIDE, 3), dtype=np.float32)


def masked_image_model() -> heads.MaskedImageModel:
    """With one table of relative positions, as in the official pre-training."""
    return heads.MaskedImageModel(vit.Encoder(**ENCODER, mask_token=True, relative_position="shared"), vocab=CLASSES)


def classifier() -> classifiers.ImageClassifier:
    """With a table per block and mean pooling, as in the official fine-tuning."""
    encoder = vit.Encoder(**ENCODER, relative_position="per_block", final_norm=False, init_scheme="finetune")
    return classifiers.ImageClassifier(encoder, num_classes=CLASSES)


def tokenizer() -> dvae.DiscreteVAE:
    """The published shape, narrow."""
    return dvae.DiscreteVAE(**TOKENIZER)


def parameters(model: nn.Module, *args: Any) -> Tree:
    """Weights drawn for a model that takes `args`."""
    return random_parameters(jax.eval_shape(model.init, jax.random.key(0), *args)["params"])


def tokenizer_parameters() -> Tree:
    """Weights drawn for the tokenizer."""
    return parameters(tokenizer(), pixels(), jax.random.key(0), 1.0)
