"""Semantic segmentation: the network of published checkpoints. Training it is not here yet."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.models import upernet, vit
from beit_jax.tasks.encoder import encoder_fields
from beit_jax.tasks.task import Params


def model(config: ConfigDict) -> upernet.UperNet:
    """The network of a config whose `model` section has `num_classes`, `channels`, `layers`, `auxiliary_channels`."""
    section = config.model
    return upernet.UperNet(
        encoder=vit.Encoder(**encoder_fields(section), init_scheme="finetune", final_norm=False),
        num_classes=section.num_classes,
        channels=section.channels,
        layers=tuple(section.layers),
        auxiliary_channels=section.auxiliary_channels,
    )


def init(config: ConfigDict, key: jax.Array) -> Params:
    """Fresh parameters."""
    size = config.model.image_size
    return model(config).init(key, jnp.zeros((1, size, size, 3), jnp.float32))["params"]
