"""Masked image modelling (BEiT paper, section 2.3; official `engine_for_pretraining.py`).

The tokenizer turns its own view of the crop into one token per patch; the encoder sees the patches with some of them
replaced by the mask token, and predicts the tokens of these. The head runs on a fixed number K of gathered positions,
so that shapes are static although masks hold different numbers of patches: positions beyond a mask's own weigh nothing,
which makes the loss equal to the mean over all masked patches at K/n of the head's cost.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from ml_collections import ConfigDict

from beit_jax.models import dvae, heads, variants, vit
from beit_jax.tasks import tokenizer
from beit_jax.tasks.encoder import encoder_fields
from beit_jax.tasks.task import Batch, FrozenPart, Metrics, Params, Task, means


def gather_masked(mask: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Row-major positions of the masked patches, padded to `k`.

    Args:
      mask: bool `[b, g, g]`.
      k: number of positions; masked patches beyond it would be left out, which `measure` reports as `overflow`.

    Returns:
      positions int32 `[b, k]` (the first are the masked ones, in order) and weights float32 `[b, k]` of 0 and 1.
    """
    flat = rearrange(mask, "b h w -> b (h w)")
    positions = jnp.argsort(~flat, axis=1, stable=True)[:, :k].astype(jnp.int32)
    return positions, jnp.take_along_axis(flat, positions, axis=1).astype(jnp.float32)


def create(config: ConfigDict) -> Task:
    """The pre-training task.

    Batches hold `image` `[b, h, w, 3]` normalised, `tokenizer_image` `[b, h', w', 3]` in [0.1, 0.9] and `mask` bool
    `[b, g, g]`.
    """
    size, grid = config.model.image_size, config.model.image_size // variants.parse(config.model.variant)[1]
    encoder = vit.Encoder(**encoder_fields(config.model), mask_token=True, init_scheme="pretrain")
    net = heads.MaskedImageModel(encoder=encoder, vocab=config.tokenizer.vocab)
    visual_tokenizer = tokenizer.model(config.tokenizer)

    def init(key: jax.Array) -> Params:
        image = jnp.zeros((1, size, size, 3), jnp.float32)
        return net.init(key, image, jnp.ones((1, grid, grid), bool), jnp.zeros((1, 1), jnp.int32))["params"]

    def predict(params: Params, frozen: Params, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, ...]:
        """Logits `[b, k, v]`, true tokens `[b, k]`, weights `[b, k]`; with a key, stochastic depth is on."""
        tokens = visual_tokenizer.apply(
            {"params": frozen["tokenizer"]}, batch["tokenizer_image"], method=visual_tokenizer.tokens
        )
        positions, weights = gather_masked(batch["mask"], config.num_masked)
        rngs = {} if key is None else {"drop_path": key}
        logits = net.apply(
            {"params": params}, batch["image"], batch["mask"], positions, train=key is not None, rngs=rngs
        )
        tokens = rearrange(tokens, "b h w -> b (h w)")
        return logits, jnp.take_along_axis(tokens, positions, axis=1), weights

    def token_metrics(logits: jax.Array, tokens: jax.Array, weights: jax.Array) -> Metrics:
        log_p = jax.nn.log_softmax(logits)
        nll = -jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
        right = (jnp.argmax(logits, axis=-1) == tokens).astype(jnp.float32)
        count = jnp.sum(weights)
        return {"loss": (jnp.sum(nll * weights), count), "mlm_acc": (jnp.sum(right * weights), count)}

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array) -> Metrics:
        logits, tokens, weights = predict(params, frozen, batch, key)
        images = jnp.float32(batch["image"].shape[0])
        return token_metrics(logits, tokens, weights) | {"masked_per_image": (jnp.sum(weights), images)}

    def measure(params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        logits, tokens, weights = predict(params, frozen, batch)
        valid = batch["valid"].astype(jnp.float32)
        weights = weights * valid[:, None]
        frequencies = jnp.einsum("bk,bkv->v", weights, jax.nn.one_hot(tokens, logits.shape[-1]))
        masked = jnp.sum(batch["mask"], axis=(1, 2), dtype=jnp.float32)
        overflow = jnp.sum(jnp.maximum(masked - config.num_masked, 0.0) * valid)
        return token_metrics(logits, tokens, weights) | {"tokens": frequencies, "overflow": overflow}

    def pictures(params: Params, frozen: Params, batch: Batch) -> dict[str, jax.Array]:
        variables = {"params": frozen["tokenizer"]}

        def decoded(tokens: jax.Array) -> jax.Array:
            outputs = visual_tokenizer.apply(variables, tokens, method=visual_tokenizer.decode_tokens)
            return dvae.reconstruction(outputs)

        images, mask = batch["tokenizer_image"], batch["mask"]
        tokens = visual_tokenizer.apply(variables, images, method=visual_tokenizer.tokens)
        logits = net.apply({"params": params}, batch["image"], mask, None)
        guesses = jnp.argmax(logits, axis=-1).reshape(mask.shape).astype(tokens.dtype)
        original = dvae.unmap_pixels(images)
        side = images.shape[1] // mask.shape[1]
        pixel_mask = repeat(mask, "b h w -> b (h i) (w j) 1", i=side, j=side)
        return {
            "original": original,
            "masked": jnp.where(pixel_mask, 0.5, original),
            "tokenizer": decoded(tokens),
            "prediction": decoded(jnp.where(mask, guesses, tokens)),
        }

    def batch_spec(b: int) -> dict[str, jax.ShapeDtypeStruct]:
        side = config.tokenizer.image_size
        return {
            "image": jax.ShapeDtypeStruct((b, size, size, 3), jnp.float32),
            "tokenizer_image": jax.ShapeDtypeStruct((b, side, side, 3), jnp.float32),
            "mask": jax.ShapeDtypeStruct((b, grid, grid), jnp.bool_),
        }

    part = FrozenPart(init=lambda key: tokenizer.init(config.tokenizer, key), source=config.tokenizer.init_from)
    return Task("pretrain", batch_spec, init, loss, measure, summarize, pictures, {"tokenizer": part})


def summarize(sums: dict[str, Any]) -> dict[str, float]:
    """Means over masked patches; `mlm_acc_commonest` is what always guessing the commonest token would get."""
    frequencies = np.asarray(sums.pop("tokens"), np.float64)
    overflow = float(sums.pop("overflow"))
    return means(sums) | {"mlm_acc_commonest": float(frequencies.max() / frequencies.sum()), "overflow": overflow}
