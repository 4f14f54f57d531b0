"""The terms of BEiT's evidence lower bound on held-out images (BEiT paper, section 2.4), in nats per image.

x is the tokenizer's view of an image, z its tokens, q(z | x) the tokenizer's encoder, p(x | z) its decoder.
log p(x | z) sums over pixels and channels the log density of values in [0.1, 0.9] (`dvae.map_pixels`); a density may
exceed 1, so that these numbers may be positive. v is the size of the codebook, M the set of masked patches, n the
number of all.

Stage 1, the tokenizer, has the uniform prior over tokens:

    bound_stage1 = reconstruction - kl_to_uniform  <=  log p(x)   in expectation over the draw,

  reconstruction   log p(x | z) for z drawn from q(z | x), one draw an image that depends on its place in the set;
  kl_to_uniform    KL(q(z | x) || uniform), between 0 and n ln v.

Stage 2, the pre-training, leaves encoder and decoder as they are, takes for q the one point z^ = argmax q(z | x), and
learns a prior from what is visible. With a single point, -KL(q || prior) is the prior's log probability of it:

    bound_stage2 = reconstruction_argmax + masked_log_likelihood  <=  log p(x | visible patches, their tokens),

  reconstruction_argmax       log p(x | z^);
  masked_log_likelihood          the sum over M of log p(z^_i | visible patches), which pre-training maximises;
  masked_log_likelihood_uniform  -|M| ln v, what the uniform prior of stage 1 gives to the same tokens.

The bound holds because z^ is one term of the sum over all tokens that could stand in M. It is one on the conditional
density: tokens of visible patches are given and cost nothing, since the released model, like BERT, is trained on masked
places only. So the two bounds are of different quantities, and not to be compared; what pre-training adds is
`masked_log_likelihood - masked_log_likelihood_uniform`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.errors import UserError
from beit_jax.models import dvae
from beit_jax.tasks import pretrain, tokenizer
from beit_jax.tasks.task import Batch, Params, Task, means


def create(config: ConfigDict) -> Task:
    """The task of a config, a tokenizer's or a pre-training's, that measures the terms of the bound.

    Batches of evaluation hold `index` int `[b]` besides what the task takes.

    Raises:
      UserError: the config is of another task, or of a pre-training on other targets than masked tokens.
    """
    if config.task == "tokenizer":
        task, net = tokenizer.create(config), tokenizer.model(config.model)

        def measure(params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
            return _first_stage(net, params, batch["image"], batch)

    elif config.task == "pretrain":
        pretrain.check_masked_tokens(config)
        task, net = pretrain.create(config), pretrain.tokenizer_of(config)

        def measure(params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
            sums = _first_stage(net, frozen["tokenizer"], batch["tokenizer_image"], batch)
            return sums | _second_stage(sums, task.measure(params, frozen, batch), net.vocab)

    else:
        raise UserError(
            f"found a model of the task {config.task!r}, expected a tokenizer or a pre-trained model: no other has "
            "tokens, and so the bound"
        )
    return dataclasses.replace(task, measure=measure, summarize=summarize)


def _first_stage(net: dvae.DiscreteVAE, params: Params, images: jax.Array, batch: Batch) -> dict[str, Any]:
    variables, valid = {"params": params}, batch["valid"].astype(jnp.float32)
    logits = net.apply(variables, images, method=net.encode)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), batch["index"])
    drawn = jax.vmap(jax.random.categorical)(keys, logits)

    def log_density(tokens: jax.Array) -> jax.Array:
        outputs = net.apply(variables, tokens, method=net.decode_tokens)
        return jnp.sum(dvae.logit_laplace_log_likelihood(images, outputs), axis=(1, 2, 3))

    reconstruction, kl = log_density(drawn), jnp.sum(tokenizer.kl_to_uniform(logits), axis=(1, 2))
    terms = {
        "reconstruction": reconstruction,
        "kl_to_uniform": kl,
        "bound_stage1": reconstruction - kl,
        "reconstruction_argmax": log_density(jnp.argmax(logits, axis=-1)),
    }
    return {name: (jnp.sum(values * valid), jnp.sum(valid)) for name, values in terms.items()}


def _second_stage(first: dict[str, Any], measured: dict[str, Any], vocab: int) -> dict[str, Any]:
    (nll, masked), (likeliest, images) = measured["loss"], first["reconstruction_argmax"]
    return {
        "masked_log_likelihood": (-nll, images),
        "masked_log_likelihood_uniform": (-masked * jnp.log(float(vocab)), images),
        "bound_stage2": (likeliest - nll, images),
        "masked_per_image": (masked, images),
        "overflow": measured["overflow"],
    }


def summarize(sums: dict[str, Any]) -> dict[str, float]:
    """Means over images and their exact number; `overflow`, which must be 0, counts masked patches left out."""
    overflow = {"overflow": float(sums.pop("overflow"))} if "overflow" in sums else {}
    return means(sums) | overflow | {"images": float(sums["reconstruction"][1])}
