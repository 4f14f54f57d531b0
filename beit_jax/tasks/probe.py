"""Linear probe of a frozen encoder (BEiT paper, appendix D; official `run_linear_eval.py`).

One linear classifier for each layer, all trained at once: the loss is the sum of theirs, and since they share no
parameter each learns as it would alone. The encoder is not trained; where its input never changes, a batch may hold
`features` in place of `image`, computed once.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.models import variants, vit
from beit_jax.tasks import layers
from beit_jax.tasks.classify import check_labels, cross_entropy, ranks
from beit_jax.tasks.encoder import encoder_fields, features
from beit_jax.tasks.task import Batch, FrozenPart, HostBatch, Metrics, Params, Task

# What checkpoints of other tasks hold beside the blocks.
DROP = (r"^(lm_head|fc_norm|head)/", r"^encoder/(mask_token|norm/.*)$")


def model(config: ConfigDict) -> vit.Encoder:
    """The encoder of a config."""
    return vit.Encoder(**encoder_fields(config.model), final_norm=False)


def create(config: ConfigDict) -> Task:
    """The probing task; batches hold `label` int32 `[b]`, and `image` `[b, h, w, 3]` or `features` `[b, l, f]`."""
    net, size, classes = model(config), config.model.image_size, config.model.num_classes
    variant, _ = variants.parse(config.model.variant)
    chosen = layers.chosen(config.layers, variant.depth)
    width = variant.width * (2 if config.features == "cls_mean" else 1)

    def init_encoder(key: jax.Array) -> Params:
        return {"encoder": net.init(key, jnp.zeros((1, size, size, 3), jnp.float32))["params"]}

    def init(key: jax.Array) -> Params:
        kernel = nn.initializers.normal(0.01)(key, (len(chosen), width, classes), jnp.float32)
        return {"head": {"kernel": kernel, "bias": jnp.zeros((len(chosen), classes), jnp.float32)}}

    def embed(params: Params, frozen: Params, images: jax.Array) -> jax.Array:
        every = features(net, frozen["encoder"]["encoder"], images, config.features)
        return jax.lax.stop_gradient(every[:, jnp.array(chosen) - 1])

    def logits_of(params: Params, frozen: Params, batch: Batch) -> jax.Array:
        """float32 `[b, l, c]`."""
        x = batch["features"] if "features" in batch else embed(params, frozen, batch["image"])
        return jnp.einsum("blf,lfc->blc", x, params["head"]["kernel"]) + params["head"]["bias"][None]

    def losses_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
        """`[b, l]`."""
        return jax.vmap(lambda layer: cross_entropy(layer, labels, 0.0), in_axes=1, out_axes=1)(logits)

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array) -> Metrics:
        losses = losses_of(logits_of(params, frozen, batch), batch["label"])
        return {"loss": (jnp.sum(losses), jnp.float32(losses.shape[0]))}

    def measure(params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        logits, valid = logits_of(params, frozen, batch), batch["valid"].astype(jnp.float32)
        rank = jax.vmap(lambda layer: ranks(layer, batch["label"]), in_axes=1, out_axes=1)(logits)
        counted = {"loss": losses_of(logits, batch["label"]), "top1": rank < 1, "top5": rank < 5}
        sums = {name: jnp.einsum("bl,b->l", values.astype(jnp.float32), valid) for name, values in counted.items()}
        return sums | {"images": jnp.sum(valid)}

    def batch_spec(b: int) -> dict[str, jax.ShapeDtypeStruct]:
        shape, name = ((b, len(chosen), width), "features") if config.cache_features else ((b, size, size, 3), "image")
        return {
            name: jax.ShapeDtypeStruct(shape, jnp.float32),
            "label": jax.ShapeDtypeStruct((b,), jnp.int32),
        }

    def check(rows: HostBatch) -> None:
        check_labels(rows, classes)

    source = config.encoder.init_from
    encoder = FrozenPart(init=init_encoder, source=source, seed=config.seed, drop=DROP)
    return Task(
        name="probe",
        batch_spec=batch_spec,
        init=init,
        loss=loss,
        measure=measure,
        summarize=lambda sums: summarize(sums, chosen),
        check=check,
        embed=embed,
        embedded=chosen,
        frozen={"encoder": encoder},
    )


def summarize(sums: dict[str, Any], chosen: tuple[int, ...]) -> dict[str, float]:
    """The numbers of the layer with the best top-1, its number, and the top-1 of each layer.

    The best layer is chosen on the images that are counted, as officially.
    """
    images = float(sums.pop("images"))
    means = {name: values / images for name, values in sums.items()}
    return layers.best(means, chosen) | {"images": images}
