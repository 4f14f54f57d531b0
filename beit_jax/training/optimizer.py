"""AdamW as BEiT uses it: decay by name, warm-up and cosine, layer-wise rates, clipping (`optim_factory.py`)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from beit_jax.errors import UserError
from beit_jax.training.params import choose, flatten, map_names, unflatten
from beit_jax.training.schedule import warmup_cosine, warmup_linear

# Weight decay by name and not by rank, which stacking layers would change. The mask token and the tables of relative
# positions are decayed, as in the official code.
DECAY = (
    (r"(bias|scale|gamma_1|gamma_2|cls_token|pos_embed)$", False),
    (r"norm/(mean|var)$", False),  # running statistics, which are not learned
    (r".*", True),
)

# The layer that a parameter belongs to, for layer-wise decay; the shared table counts with the head, as officially.
STACKED, LAST = "stacked", "last"
LAYER = (
    (r"^encoder/(cls_token|mask_token|pos_embed|patch_embed/.*)$", 0),
    (r"^encoder/blocks/", STACKED),
    (r".*", LAST),
)


def make(
    config: ConfigDict, total_steps: int, warmup_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of a config's `optimizer` section, and its learning-rate schedule.

    Args:
      config: the section.
      total_steps: length of the run.
      warmup_steps: steps of linear warm-up.

    Raises:
      UserError: the warm-up is longer than the run.
    """
    if warmup_steps >= total_steps:
        raise UserError(
            f"the warm-up takes {warmup_steps} steps of a run of {total_steps}; shorten optimizer.warmup_epochs or "
            "optimizer.warmup_steps"
        )
    if config.schedule == "linear":
        rate = warmup_linear(config.lr, config.min_lr, warmup_steps, total_steps)
    else:
        rate = warmup_cosine(config.lr, config.min_lr, warmup_steps, total_steps, config.decay_steps)
    decay = config.weight_decay
    if config.weight_decay_end >= 0:
        decay = warmup_cosine(config.weight_decay, config.weight_decay_end, 0, total_steps)
    parts = [
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(decay, mask=lambda params: map_names(lambda name, _: choose(DECAY, name), params)),
        optax.scale_by_learning_rate(rate),
    ]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.layer_decay < 1:
        parts.append(_scale_layers(config.layer_decay))
    return optax.chain(*parts), rate


def layer_scales(params: Any, layer_decay: float) -> Any:
    """Factors of the learning rate, `layer_decay ** (L + 1 - layer)`.

    Embeddings are layer 0, blocks 1..L, the rest L + 1.

    Args:
      params: tree of arrays or shapes; `encoder/blocks/` parameters have the layer as first axis.
      layer_decay: above 0, at most 1.

    Returns:
      A tree of float32 arrays that broadcast against the parameters: `[L, 1, ...]` for stacked ones, else scalars.
    """
    flat = flatten(params)
    depth = next((leaf.shape[0] for name, leaf in flat.items() if choose(LAYER, name) == STACKED), 0)

    def scale(name: str, leaf: Any) -> jax.Array:
        layer = choose(LAYER, name)
        if layer == STACKED:
            layers = jnp.arange(1, depth + 1, dtype=jnp.float32).reshape((depth,) + (1,) * (len(leaf.shape) - 1))
        else:
            layers = jnp.float32(depth + 1 if layer == LAST else layer)
        return layer_decay ** (depth + 1 - layers)

    return unflatten({name: scale(name, leaf) for name, leaf in flat.items()})


def _scale_layers(layer_decay: float) -> optax.GradientTransformation:
    def scale(updates: Any, params: Any) -> Any:
        scales = layer_scales(params, layer_decay)
        return jax.tree.map(lambda update, factor: update * jnp.broadcast_to(factor, update.shape), updates, scales)

    return optax.stateless(scale)
