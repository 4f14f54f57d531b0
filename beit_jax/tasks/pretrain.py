"""Masked image modelling (BEiT paper, section 2.3; official `engine_for_pretraining.py`).

The tokenizer turns its own view of the crop into one token per patch; the encoder sees the patches with some of them
replaced by the mask token, and predicts the tokens of these. The head runs on a fixed number K of gathered positions,
so that shapes are static although masks hold different numbers of patches: positions beyond a mask's own weigh nothing,
which makes the loss equal to the mean over all masked patches at K/n of the head's cost.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from ml_collections import ConfigDict

from beit_jax.errors import UserError
from beit_jax.models import dvae, heads, variants, vit
from beit_jax.tasks import layers, on_device, tokenizer
from beit_jax.tasks.encoder import encoder_fields, features
from beit_jax.tasks.task import Batch, FrozenPart, Metrics, Params, Rows, Task, means


def model(config: ConfigDict) -> heads.MaskedImageModel:
    """The masked image model of a config."""
    encoder = vit.Encoder(**encoder_fields(config.model), mask_token=True, init_scheme="pretrain")
    return heads.MaskedImageModel(encoder=encoder, vocab=config.tokenizer.vocab)


def tokenizer_of(config: ConfigDict) -> dvae.DiscreteVAE:
    """The network that makes the tokens of a config."""
    return tokenizer.model(config.tokenizer)


def grid(config: ConfigDict) -> int:
    """Patches along a side of an image."""
    return config.model.image_size // variants.parse(config.model.variant)[1]


def create(config: ConfigDict) -> Task:
    """The pre-training task.

    Batches hold `image` `[b, h, w, 3]` normalised, `tokenizer_image` `[b, h', w', 3]` in [0.1, 0.9] and `mask` bool
    `[b, g, g]`. With `config.tokens`, those of training hold `tokens` int32 `[b, g, g]` in place of `tokenizer_image`;
    those of evaluation do not. With `config.on_device`, training images are uint8 and get their colours in the step.
    """
    variant, _ = variants.parse(config.model.variant)
    learned = _MaskedModelling(
        net=model(config),
        tokenizer=tokenizer_of(config),
        image_size=config.model.image_size,
        tokenizer_size=config.tokenizer.image_size,
        grid=grid(config),
        num_masked=config.num_masked,
        colours=config.on_device if config.on_device.statistics else None,
    )
    part = FrozenPart(init=lambda key: tokenizer.init(config.tokenizer, key), source=config.tokenizer.init_from)
    return Task(
        name="pretrain",
        batch_spec=learned.given_spec if config.tokens else learned.train_spec,
        eval_spec=learned.batch_spec,
        init=learned.init,
        loss=learned.loss,
        measure=learned.measure,
        summarize=summarize,
        check=learned.check,
        pictures=learned.pictures,
        embed=learned.embed,
        embedded=layers.chosen((), variant.depth),
        frozen={"tokenizer": part},
    )


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


def token_metrics(logits: jax.Array, tokens: jax.Array, weights: jax.Array) -> Metrics:
    """Cross-entropy and accuracy over the positions that weigh.

    Args:
      logits: `[b, k, v]`.
      tokens: the true ones, int `[b, k]`.
      weights: `[b, k]` of 0 and 1.
    """
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
    right = (jnp.argmax(logits, axis=-1) == tokens).astype(jnp.float32)
    count = jnp.sum(weights)
    return {"loss": (jnp.sum(nll * weights), count), "mlm_acc": (jnp.sum(right * weights), count)}


def summarize(sums: dict[str, Any]) -> dict[str, float]:
    """Means over masked patches; `mlm_acc_commonest` is what always guessing the commonest token would get."""
    frequencies = np.asarray(sums.pop("tokens"), np.float64)
    overflow = float(sums.pop("overflow"))
    return means(sums) | {"mlm_acc_commonest": float(frequencies.max() / frequencies.sum()), "overflow": overflow}


@dataclasses.dataclass(frozen=True)
class _MaskedModelling:
    """The functions of the task; see `Task`. Sizes are sides of squares: in pixels, `grid` in patches."""

    net: heads.MaskedImageModel
    tokenizer: dvae.DiscreteVAE
    image_size: int
    tokenizer_size: int
    grid: int
    num_masked: int
    colours: ConfigDict | None

    def batch_spec(self, b: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "image": jax.ShapeDtypeStruct((b, self.image_size, self.image_size, 3), jnp.float32),
            "tokenizer_image": jax.ShapeDtypeStruct((b, self.tokenizer_size, self.tokenizer_size, 3), jnp.float32),
            "mask": jax.ShapeDtypeStruct((b, self.grid, self.grid), jnp.bool_),
        }

    def train_spec(self, b: int) -> dict[str, jax.ShapeDtypeStruct]:
        specs = self.batch_spec(b)
        images = [name for name in specs if name != "mask" and self.colours]
        return specs | {name: jax.ShapeDtypeStruct(specs[name].shape, jnp.uint8) for name in images}

    def given_spec(self, b: int) -> dict[str, jax.ShapeDtypeStruct]:
        specs = self.batch_spec(b)
        del specs["tokenizer_image"]
        return specs | {"tokens": jax.ShapeDtypeStruct((b, self.grid, self.grid), jnp.int32)}

    def init(self, key: jax.Array) -> Params:
        batch = {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in self.batch_spec(1).items()}
        return self.net.init(key, batch["image"], batch["mask"], jnp.zeros((1, 1), jnp.int32))["params"]

    def check(self, rows: Rows) -> None:
        counts = rows["mask"].sum(axis=(1, 2))
        if counts.max() > self.num_masked or not counts.all():
            raise UserError(
                f"found masks of {counts.min()} to {counts.max()} patches, expected 1 to num_masked={self.num_masked}: "
                "make num_masked and the mask in data.ops agree"
            )

    def predict(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Logits `[b, k, v]`, true tokens `[b, k]`, weights `[b, k]`; with a key, stochastic depth is on."""
        tokens = batch["tokens"] if "tokens" in batch else self.tokens(frozen, batch["tokenizer_image"])
        positions, weights = gather_masked(batch["mask"], self.num_masked)
        rngs = {} if key is None else {"drop_path": key}
        logits = self.net.apply(
            {"params": params}, batch["image"], batch["mask"], positions, train=key is not None, rngs=rngs
        )
        return logits, jnp.take_along_axis(rearrange(tokens, "b h w -> b (h w)"), positions, axis=1), weights

    def loss(self, params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array) -> Metrics:
        if self.colours:
            batch = on_device.finish(batch, key, self.colours)
        logits, tokens, weights = self.predict(params, frozen, batch, key)
        images = jnp.float32(batch["image"].shape[0])
        return token_metrics(logits, tokens, weights) | {"masked_per_image": (jnp.sum(weights), images)}

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        logits, tokens, weights = self.predict(params, frozen, batch)
        valid = batch["valid"].astype(jnp.float32)
        weights = weights * valid[:, None]
        frequencies = jnp.einsum("bk,bkv->v", weights, jax.nn.one_hot(tokens, logits.shape[-1]))
        masked = jnp.sum(batch["mask"], axis=(1, 2), dtype=jnp.float32)
        overflow = jnp.sum(jnp.maximum(masked - self.num_masked, 0.0) * valid)
        return token_metrics(logits, tokens, weights) | {"tokens": frequencies, "overflow": overflow}

    def embed(self, params: Params, frozen: Params, images: jax.Array) -> jax.Array:
        return features(self.net.encoder, params["encoder"], images, "mean")

    def tokens(self, frozen: Params, images: jax.Array) -> jax.Array:
        return self.tokenizer.apply({"params": frozen["tokenizer"]}, images, method="tokens")

    def decoded(self, frozen: Params, tokens: jax.Array) -> jax.Array:
        outputs = self.tokenizer.apply({"params": frozen["tokenizer"]}, tokens, method="decode_tokens")
        return dvae.reconstruction(outputs)

    def pictures(self, params: Params, frozen: Params, batch: Batch) -> dict[str, jax.Array]:
        images, mask = batch["tokenizer_image"], batch["mask"]
        tokens = self.tokens(frozen, images)
        logits = self.net.apply({"params": params}, batch["image"], mask, None)
        guesses = jnp.argmax(logits, axis=-1).reshape(mask.shape).astype(tokens.dtype)
        original = dvae.unmap_pixels(images)
        side = images.shape[1] // mask.shape[1]
        pixel_mask = repeat(mask, "b h w -> b (h i) (w j) 1", i=side, j=side)
        return {
            "original": original,
            "masked": jnp.where(pixel_mask, 0.5, original),
            "tokenizer": self.decoded(frozen, tokens),
            "prediction": self.decoded(frozen, jnp.where(mask, guesses, tokens)),
        }
