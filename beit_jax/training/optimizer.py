"""AdamW as BEiT uses it: decay by name, warm-up and cosine, layer-wise rates, clipping (`optim_factory.py`)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from beit_jax.config.durations import parse_schedule
from beit_jax.config.shared import TOKENS, VECTORS
from beit_jax.errors import UserError
from beit_jax.training.params import Rules, choose, flatten, map_names, unflatten
from beit_jax.training.schedule import by_epoch, warmup_cosine, warmup_linear

# The layer that a parameter belongs to, for layer-wise decay; the shared table counts with the head, as officially.
STACKED, LAST = "stacked", "last"
LAYER = (
    (r"^encoder/(cls_token|mask_token|pos_embed|patch_embed/.*)$", 0),
    (r"^encoder/blocks/", STACKED),
    (r".*", LAST),
)


def build_optimizer(
    settings: ConfigDict,
    total_steps: int,
    warmup_steps: int,
    decay_steps: int = 0,
    steps_per_epoch: int = 1,
    no_decay: Sequence[str] = (VECTORS, TOKENS),
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of a config's `optimizer` section, and its learning rate as a function of the step.

    Args:
      settings: the section.
      total_steps: length of the run.
      warmup_steps: length of the linear warm-up.
      decay_steps: length of the cosine, which follows the warm-up, or of the straight line, which starts with it; 0: to
        the end of the run.
      steps_per_epoch: for a schedule that changes once in an epoch.
      no_decay: regular expressions of parameters without weight decay, see `Task.no_decay`.

    Raises:
      UserError: the warm-up is longer than the run.
    """
    if warmup_steps >= total_steps:
        raise UserError(
            f"found a warm-up of {warmup_steps} steps, expected fewer than the {total_steps} steps of the run: shorten "
            "optimizer.warmup, such as --config.optimizer.warmup=5%"
        )
    kind, _ = parse_schedule(settings.schedule, steps_per_epoch=1, total=total_steps)
    schedule = {"linear": warmup_linear}.get(kind, warmup_cosine)
    rate = schedule(settings.lr, settings.min_lr, warmup_steps, total_steps, decay_steps)
    if kind == "cosine_by_epoch":
        rate = by_epoch(rate, steps_per_epoch)
    b1, b2 = settings.betas
    parts = [
        optax.scale_by_adam(b1=b1, b2=b2),
        optax.add_decayed_weights(settings.weight_decay, mask=partial(_decayed, decay_rules(no_decay))),
        optax.scale_by_learning_rate(rate),
    ]
    if settings.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(settings.clip_norm))
    if settings.layer_decay < 1:
        parts.append(_scale_by_layer(settings.layer_decay))
    return optax.chain(*parts), rate


def decay_rules(no_decay: Sequence[str]) -> Rules:
    """Which parameters have weight decay, by their names; a rule by rank would not survive the stacking of layers."""
    return *((pattern, False) for pattern in no_decay), (r".*", True)


def _decayed(rules: Rules, params: Any) -> Any:
    return map_names(lambda name, _: choose(rules, name), params)


def layer_scales(params: Any, layer_decay: float) -> Any:
    """Factors of the learning rate, `layer_decay ** (L + 1 - layer)` (official `LayerDecayValueAssigner`).

    Embeddings are layer 0, blocks are 1 to L, the rest is L + 1.

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


def _scale_by_layer(layer_decay: float) -> optax.GradientTransformation:
    def scale(updates: Any, params: Any) -> Any:
        scales = layer_scales(params, layer_decay)
        return jax.tree.map(lambda update, factor: update * jnp.broadcast_to(factor, update.shape), updates, scales)

    return optax.stateless(scale)
