"""Masked image modelling (BEiT paper, section 2.3; official `engine_for_pretraining.py`).

The tokenizer turns its own view of the crop into one token per patch; the encoder sees the patches with some of them
replaced by the mask token, and predicts the tokens of these. The head runs on a fixed number K of gathered positions,
so that shapes are static although masks hold different numbers of patches: positions beyond a mask's own weigh nothing,
which makes the loss equal to the mean over all masked patches at K/n of the head's cost.

It is the second of BEiT's two stages (BEiT paper, section 2.4). The first, `tokenizer`, fits an encoder q(z | x) and a
decoder p(x | z) under a uniform prior over tokens z. Here both stay as they are, q is taken to be the one point
z^ = argmax q(z | x), and the transformer learns the prior p(z | corrupted image): with a single point, the bound's
-KL(q || p) is log p(z^ | corrupted image), the second term of the paper's equation 3. The loss is its negative at the
masked patches, as a mean instead of a sum. `evaluate --bound` reports the terms; see `bound`.

The paper's ablations (section 3.3, table 4) are settings: `target="pixels"` regresses the pixels of patches in place of
their tokens, `loss_on="all"` counts every patch, hidden or not; masks are those of `data.ops`.
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
from beit_jax.tasks import device_augment, layers, pixel_targets, tokenizer
from beit_jax.tasks.encoder import encoder_fields, features
from beit_jax.tasks.task import Batch, FrozenPart, HostBatch, Metrics, Params, Task, means


def model(config: ConfigDict) -> heads.MaskedImageModel:
    """The masked image model of a config."""
    encoder = vit.Encoder(**encoder_fields(config.model), mask_token=True, init_scheme="pretrain")
    values = 3 * encoder.patch_size**2 if _target(config) == "pixels" else config.tokenizer.vocab
    return heads.MaskedImageModel(encoder=encoder, vocab=values)


def check_masked_tokens(config: ConfigDict) -> None:
    """Raises UserError for a model that was trained to predict anything but the tokens of masked patches."""
    target, on = _target(config), config.get("loss_on", "masked")
    if (target, on) != ("tokens", "masked"):
        raise UserError(f"found target={target!r} and loss_on={on!r}; expected a model of the tokens of masked patches")


def _target(config: ConfigDict) -> str:
    return config.get("target", "tokens")  # runs from before there was a choice have no such key


def _colours(config: ConfigDict) -> ConfigDict | None:
    settings = config.get("device_augment", None)
    return settings if settings and settings.statistics else None


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
    those of evaluation do not. With `target="pixels"` they hold neither. With `config.device_augment`, training has
    uint8 images, and the step makes both views of them.
    """
    variant, _ = variants.parse(config.model.variant)
    kind = _MaskedRegression if _target(config) == "pixels" else _MaskedModelling
    learned = kind(
        net=model(config),
        tokenizer=tokenizer_of(config),
        image_size=config.model.image_size,
        tokenizer_size=config.tokenizer.image_size,
        grid=grid(config),
        num_masked=config.num_masked,
        everywhere=config.get("loss_on", "masked") == "all",
        colours=_colours(config),
    )
    part = FrozenPart(init=lambda key: tokenizer.init(config.tokenizer, key), source=config.tokenizer.init_from)
    return Task(
        name="pretrain",
        batch_spec=learned.given_spec if config.get("tokens", "") else learned.train_spec,
        eval_spec=learned.batch_spec,
        init=learned.init,
        loss=learned.loss,
        measure=learned.measure,
        summarize=summarize,
        check=learned.check,
        pictures=learned.pictures,
        embed=learned.embed,
        embedded=layers.chosen((), variant.depth),
        frozen={"tokenizer": part} if _target(config) == "tokens" else {},
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
    true = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(logits, axis=-1) - true
    right = (true >= jnp.max(logits, axis=-1)).astype(jnp.float32)  # faster than argmax; a tie counts as right
    count = jnp.sum(weights)
    return {"loss": (jnp.sum(nll * weights), count), "mlm_acc": (jnp.sum(right * weights), count)}


def summarize(sums: dict[str, Any]) -> dict[str, float]:
    """Means over the patches that count; `mlm_acc_majority` is what always guessing the commonest token would get."""
    overflow = float(sums.pop("overflow"))
    if "all_acc" in sums and not sums["mlm_acc"][1]:
        del sums["mlm_acc"]  # nothing is hidden
    if "tokens" not in sums:
        return means(sums) | {"overflow": overflow}
    frequencies = np.asarray(sums.pop("tokens"), np.float64)
    return means(sums) | {"mlm_acc_majority": float(frequencies.max() / frequencies.sum()), "overflow": overflow}


@dataclasses.dataclass(frozen=True)
class _MaskedModelling:
    """The functions of the task; see `Task`. Sizes are sides of squares: in pixels, `grid` in patches."""

    net: heads.MaskedImageModel
    tokenizer: dvae.DiscreteVAE
    image_size: int
    tokenizer_size: int
    grid: int
    num_masked: int
    everywhere: bool  # whether the loss counts patches that are not hidden, too
    colours: ConfigDict | None  # what the step does to uint8 images; None: they come as the encoder takes them

    def batch_spec(self, b: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "image": jax.ShapeDtypeStruct((b, self.image_size, self.image_size, 3), jnp.float32),
            "tokenizer_image": jax.ShapeDtypeStruct((b, self.tokenizer_size, self.tokenizer_size, 3), jnp.float32),
            "mask": jax.ShapeDtypeStruct((b, self.grid, self.grid), jnp.bool_),
        }

    def train_spec(self, b: int) -> dict[str, jax.ShapeDtypeStruct]:
        specs = self.batch_spec(b)
        if not self.colours:
            return specs
        return {"image": jax.ShapeDtypeStruct(specs["image"].shape, jnp.uint8), "mask": specs["mask"]}

    def given_spec(self, b: int) -> dict[str, jax.ShapeDtypeStruct]:
        specs = self.batch_spec(b)
        del specs["tokenizer_image"]
        return specs | {"tokens": jax.ShapeDtypeStruct((b, self.grid, self.grid), jnp.int32)}

    def init(self, key: jax.Array) -> Params:
        batch = {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in self.batch_spec(1).items()}
        return self.net.init(key, batch["image"], batch["mask"], jnp.zeros((1, 1), jnp.int32))["params"]

    def check(self, rows: HostBatch) -> None:
        counts = rows["mask"].sum(axis=(1, 2))
        if counts.max() > self.num_masked or not (self.everywhere or counts.all()):
            raise UserError(
                f"found masks of {counts.min()} to {counts.max()} patches, expected 1 to num_masked={self.num_masked}: "
                "make num_masked and the mask in data.ops agree"
            )

    def predict(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Logits `[b, k, v]`, true tokens `[b, k]`, 1 where these are hidden; with a key, stochastic depth is on."""
        positions, weights = gather_masked(batch["mask"], self.num_masked)
        rngs = {} if key is None else {"drop_path": key}
        logits = self.net.apply(
            {"params": params}, batch["image"], batch["mask"], positions, train=key is not None, rngs=rngs
        )
        return logits, self.true(frozen, batch, positions), weights

    def true(self, frozen: Params, batch: Batch, positions: jax.Array) -> jax.Array:
        """What is to be predicted at row-major `positions` `[b, k]`: int `[b, k]`."""
        if "tokens" not in batch:
            return self.tokens(frozen, batch["tokenizer_image"], positions)
        return jnp.take_along_axis(rearrange(batch["tokens"], "b h w -> b (h w)"), positions, axis=1)

    def counted(self, hidden: jax.Array) -> jax.Array:
        """Weights of the loss, from those of hidden patches `[b, k]`."""
        return jnp.ones_like(hidden) if self.everywhere else hidden

    def scores(self, logits: jax.Array, tokens: jax.Array, weights: jax.Array) -> Metrics:
        """The loss and what it goes with, over the patches that weigh."""
        found = token_metrics(logits, tokens, weights)
        return {"loss": found["loss"], "all_acc": found["mlm_acc"]} if self.everywhere else found

    def loss(self, params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array) -> Metrics:
        if self.colours:
            batch = device_augment.finish(batch, key, self.colours, self.tokenizer_size)
        predicted, true, hidden = self.predict(params, frozen, batch, key)
        images = jnp.float32(batch["image"].shape[0])
        return self.scores(predicted, true, self.counted(hidden)) | {"masked_per_image": (jnp.sum(hidden), images)}

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        logits, tokens, hidden = self.predict(params, frozen, batch)
        valid = batch["valid"].astype(jnp.float32)
        weights = self.counted(hidden) * valid[:, None]
        frequencies = jnp.einsum("bk,bkv->v", weights, jax.nn.one_hot(tokens, logits.shape[-1]))
        found = token_metrics(logits, tokens, hidden * valid[:, None]) | self.scores(logits, tokens, weights)
        return found | {"tokens": frequencies, "overflow": self.overflow(batch)}

    def overflow(self, batch: Batch) -> jax.Array:
        """Hidden patches that the head leaves out."""
        masked = jnp.sum(batch["mask"], axis=(1, 2), dtype=jnp.float32)
        return jnp.sum(jnp.maximum(masked - self.num_masked, 0.0) * batch["valid"].astype(jnp.float32))

    def embed(self, params: Params, frozen: Params, images: jax.Array) -> jax.Array:
        return features(self.net.encoder, params["encoder"], images, "mean")

    def tokens(self, frozen: Params, images: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        return self.tokenizer.apply({"params": frozen["tokenizer"]}, images, positions, method="tokens")

    def decoded(self, frozen: Params, tokens: jax.Array) -> jax.Array:
        outputs = self.tokenizer.apply({"params": frozen["tokenizer"]}, tokens, method="decode_tokens")
        return dvae.reconstruction(outputs)

    def pictures(self, params: Params, frozen: Params, batch: Batch) -> dict[str, jax.Array]:
        images, mask = batch["tokenizer_image"], batch["mask"]
        tokens = self.tokens(frozen, images)
        logits = self.net.apply({"params": params}, batch["image"], mask, None)
        guesses = jnp.argmax(logits, axis=-1).reshape(mask.shape).astype(tokens.dtype)
        shown = guesses if self.everywhere else jnp.where(mask, guesses, tokens)
        original = dvae.unmap_pixels(images)
        side = images.shape[1] // mask.shape[1]
        pixel_mask = repeat(mask, "b h w -> b (h i) (w j) 1", i=side, j=side)
        return {
            "original": original,
            "masked": jnp.where(pixel_mask, 0.5, original),
            "tokenizer": self.decoded(frozen, tokens),
            "recovered" if self.everywhere else "prediction": self.decoded(frozen, shown),
        }


class _MaskedRegression(_MaskedModelling):
    """Predicts the pixels of patches, normalised as the encoder sees them; there is no tokenizer.

    The paper calls this "a pixel regression problem" and gives neither loss nor normalisation. Here it is the squared
    error, mean over the p * p * 3 values of a patch and over the patches that count: SimMIM and MAE regress hidden
    patches so, the latter after standardising each patch by itself, which is not done here.
    """

    def batch_spec(self, b: int) -> dict[str, jax.ShapeDtypeStruct]:
        specs = super().batch_spec(b)
        return {name: specs[name] for name in ("image", "mask")}

    given_spec = batch_spec

    def true(self, frozen: Params, batch: Batch, positions: jax.Array) -> jax.Array:
        """float32 `[b, k, p * p * 3]`."""
        return jnp.take_along_axis(pixel_targets.of_patches(batch["image"], self.grid), positions[..., None], axis=1)

    def scores(self, predicted: jax.Array, true: jax.Array, weights: jax.Array) -> Metrics:
        return {"loss": pixel_targets.squared_error(predicted, true, weights)}

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        predicted, true, hidden = self.predict(params, frozen, batch)
        weights = self.counted(hidden) * batch["valid"].astype(jnp.float32)[:, None]
        return self.scores(predicted, true, weights) | {"overflow": self.overflow(batch)}

    def pictures(self, params: Params, frozen: Params, batch: Batch) -> dict[str, jax.Array]:
        images, mask = batch["image"], batch["mask"]
        side = images.shape[1] // self.grid
        predicted = pixel_targets.to_images(self.net.apply({"params": params}, images, mask, None), self.grid)
        hidden = repeat(mask, "b h w -> b (h i) (w j) 1", i=side, j=side)
        lowest = jnp.min(images, axis=(1, 2, 3), keepdims=True)
        highest = jnp.max(images, axis=(1, 2, 3), keepdims=True)

        def shown(values: jax.Array) -> jax.Array:  # contrast is stretched, since normalisation cannot be undone here
            return jnp.clip((values - lowest) / jnp.maximum(highest - lowest, 1e-6), 0.0, 1.0)

        return {
            "original": shown(images),
            "masked": jnp.where(hidden, 0.5, shown(images)),
            "recovered" if self.everywhere else "filled": shown(
                predicted if self.everywhere else jnp.where(hidden, predicted, images)
            ),
        }
