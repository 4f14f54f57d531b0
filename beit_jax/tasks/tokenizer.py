"""Learns the visual tokenizer: a discrete variational autoencoder (DALL-E paper, section 2.1 and appendix A.2).

The loss is the negative evidence lower bound per value of the image,

    ( -log p(x | z) + beta * KL(q(z | x) || uniform) ) / (H W 3),

with z relaxed by Gumbel-softmax at a temperature that is annealed, beta raised from 0, and a logit-Laplace likelihood.
Dividing the KL, a sum over the token grid, by the number of pixel values makes its weight per position beta / 192 at
the paper's 256x256 images and stride 8.

It is the first of BEiT's two stages (BEiT paper, section 2.4). An image x with tokens z is a latent variable model,
p(x) = sum_z p(z) p(x | z), and its bound

    log p(x) >= E_q(z | x) [log p(x | z)] - KL(q(z | x) || p(z))

is maximised here over encoder q and decoder p(x | z): the paper's equation 2, with a uniform prior p(z). The second
stage, `pretrain`, leaves both as they are and learns the prior. `evaluate --bound` reports the terms; see `bound`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from beit_jax.models import dvae
from beit_jax.tasks.encoder import compute_dtype
from beit_jax.tasks.task import Batch, Metrics, Params, Task, means


def model(config: ConfigDict) -> dvae.DiscreteVAE:
    """The dVAE of a config section with `vocab`, `hidden`, `groups`, `blocks_per_group`, `decoder_init`.

    Float32 unless the section has a `dtype`, as that of a frozen tokenizer has.
    """
    return dvae.DiscreteVAE(
        vocab=config.vocab,
        hidden=config.hidden,
        groups=config.groups,
        blocks_per_group=config.blocks_per_group,
        decoder_init=config.decoder_init,
        dtype=compute_dtype(config.get("dtype", "float32")),
    )


def init(config: ConfigDict, key: jax.Array) -> Params:
    """Fresh parameters of the dVAE of a config section."""
    image = jnp.zeros((1, config.image_size, config.image_size, 3), jnp.float32)
    return model(config).init(key, image, key, 1.0)["params"]


def cosine(start: float, end: float, steps: int, step: jax.Array) -> jax.Array:
    """From `start` to `end` along half a cosine over `steps`, then constant (appendix A.2: a linear one diverged)."""
    progress = jnp.clip(step.astype(jnp.float32) / max(steps, 1), 0.0, 1.0)
    return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def kl_to_uniform(logits: jax.Array) -> jax.Array:
    """KL(softmax(logits) || uniform) in nats.

    Args:
      logits: `[..., v]`.

    Returns:
      `[...]`.
    """
    log_q = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_q) * log_q, axis=-1) + jnp.log(float(logits.shape[-1]))


def create(config: ConfigDict) -> Task:
    """The tokenizer task; batches hold `image` `[b, h, w, 3]` in [0.1, 0.9] (`map_pixels`)."""
    net, elbo, size = model(config.model), config.elbo, config.model.image_size

    def terms(params: Params, images: jax.Array, outputs: jax.Array, logits: jax.Array) -> dict[str, jax.Array]:
        """Per image `[b]`: the bound's two terms in nats, and the mean absolute error in units of the pixel range."""
        error = jnp.abs(dvae.unmap_pixels(images) - dvae.reconstruction(outputs))
        return {
            "nll": -jnp.sum(dvae.logit_laplace_log_likelihood(images, outputs), axis=(1, 2, 3)),
            "kl": jnp.sum(kl_to_uniform(logits), axis=(1, 2)),
            "absolute_error": jnp.mean(error, axis=(1, 2, 3)),
        }

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array) -> Metrics:
        temperature = cosine(elbo.temperature_start, elbo.temperature_end, elbo.temperature_steps, step)
        beta = cosine(0.0, elbo.kl_weight, elbo.kl_steps, step)
        outputs, logits = net.apply({"params": params}, batch["image"], key, temperature, elbo.straight_through)
        per_image = terms(params, batch["image"], outputs, logits)
        values = size * size * 3
        per_image["loss"] = (per_image["nll"] + beta * per_image["kl"]) / values
        count = jnp.float32(batch["image"].shape[0])
        metrics = {name: (jnp.sum(value), count) for name, value in per_image.items()}
        one = jnp.float32(1.0)
        return metrics | {"temperature": (temperature, one), "kl_weight": (beta, one)}

    def measure(params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        variables, valid = {"params": params}, batch["valid"].astype(jnp.float32)
        logits = net.apply(variables, batch["image"], method=net.encode)
        tokens = jnp.argmax(logits, axis=-1)
        outputs = net.apply(variables, tokens, method=net.decode_tokens)
        per_image = terms(params, batch["image"], outputs, logits)
        per_image["loss"] = (per_image["nll"] + elbo.kl_weight * per_image["kl"]) / (size * size * 3)
        used = jax.nn.one_hot(tokens, logits.shape[-1]).sum(axis=(1, 2))
        return {
            "codes": jnp.einsum("b,bv->v", valid, used),
            **{name: (jnp.sum(value * valid), jnp.sum(valid)) for name, value in per_image.items()},
        }

    def pictures(params: Params, frozen: Params, batch: Batch) -> dict[str, jax.Array]:
        variables = {"params": params}
        tokens = net.apply(variables, batch["image"], method=net.tokens)
        outputs = net.apply(variables, tokens, method=net.decode_tokens)
        return {"original": dvae.unmap_pixels(batch["image"]), "reconstruction": dvae.reconstruction(outputs)}

    return Task(
        name="tokenizer",
        batch_spec=lambda b: {"image": jax.ShapeDtypeStruct((b, size, size, 3), jnp.float32)},
        init=lambda key: init(config.model, key),
        loss=loss,
        measure=measure,
        summarize=summarize,
        pictures=pictures,
    )


def summarize(sums: dict[str, Any]) -> dict[str, float]:
    """Means, and how much of the codebook is in use.

    `perplexity` is exp of the entropy of the token frequencies over the evaluation set, between 1 (collapsed) and the
    size of the vocabulary; `perplexity_share` is that divided by the size; `codes_used` counts tokens that occur.
    """
    codes = np.asarray(sums.pop("codes"), np.float64)
    p = codes / codes.sum()
    perplexity = float(np.exp(-np.sum(p[p > 0] * np.log(p[p > 0]))))
    return means(sums) | {
        "perplexity": perplexity,
        "perplexity_share": perplexity / len(codes),
        "codes_used": float(np.count_nonzero(codes)),
    }
