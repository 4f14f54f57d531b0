"""Image classification: fine-tuning of an encoder, or training from scratch (official `run_class_finetuning.py`)."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.errors import UserError
from beit_jax.models import heads, vit
from beit_jax.tasks.encoder import encoder_fields
from beit_jax.tasks.mixup import mix
from beit_jax.tasks.task import Batch, HostBatch, Metrics, Params, Task, means


def model(config: ConfigDict) -> heads.ImageClassifier:
    """The classifier of a config."""
    section = config.model
    encoder = vit.Encoder(**encoder_fields(section), init_scheme="finetune", final_norm=section.pooling != "mean")
    return heads.ImageClassifier(
        encoder=encoder, num_classes=section.num_classes, pooling=section.pooling, init_scale=section.init_scale
    )


def create(config: ConfigDict) -> Task:
    """The classification task; batches hold `image` `[b, h, w, 3]` normalised and `label` int32 `[b]`."""
    size, classes, net = config.model.image_size, config.model.num_classes, model(config)

    def init(key: jax.Array) -> Params:
        return net.init(key, jnp.zeros((1, size, size, 3), jnp.float32))["params"]

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array) -> Metrics:
        images, labels, mixing = batch["image"], batch["label"], config.mixup > 0 or config.cutmix > 0
        if mixing:
            images, share = mix(
                jax.random.fold_in(key, 1),
                images,
                config.mixup,
                config.cutmix,
                config.mix_probability,
                config.mix_switch,
            )
        logits = net.apply({"params": params}, images, train=True, rngs={"drop_path": key})
        losses, count = cross_entropy(logits, labels, config.label_smoothing), jnp.float32(logits.shape[0])
        if mixing:  # the accuracy on mixtures says little, and is not officially logged either
            partners = cross_entropy(logits, labels[::-1], config.label_smoothing)
            return {"loss": (jnp.sum(share * losses + (1.0 - share) * partners), count)}
        right = jnp.argmax(logits, axis=-1) == labels
        return {"loss": (jnp.sum(losses), count), "top1": (jnp.sum(right.astype(jnp.float32)), count)}

    def measure(params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        logits = net.apply({"params": params}, batch["image"])
        valid, rank = batch["valid"].astype(jnp.float32), ranks(logits, batch["label"])
        count = jnp.sum(valid)
        return {
            "loss": (jnp.sum(cross_entropy(logits, batch["label"], 0.0) * valid), count),
            "top1": (jnp.sum((rank < 1).astype(jnp.float32) * valid), count),
            "top5": (jnp.sum((rank < 5).astype(jnp.float32) * valid), count),
        }

    def batch_spec(b: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "image": jax.ShapeDtypeStruct((b, size, size, 3), jnp.float32),
            "label": jax.ShapeDtypeStruct((b,), jnp.int32),
        }

    return Task("classify", batch_spec, init, loss, measure, summarize, check=lambda rows: check_labels(rows, classes))


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """(1 - e) * nll + e * mean over classes of -log p: logits `[b, c]`, labels int `[b]` -> `[b]`."""
    log_p = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    return (1.0 - smoothing) * nll - smoothing * jnp.mean(log_p, axis=-1)


def ranks(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes are likelier than the true one: logits `[b, c]`, labels int `[b]` -> int `[b]`.

    Ties and NaN count against the model, so that broken logits score nothing.
    """
    true = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    return jnp.sum(~(logits < true), axis=-1) - 1


def check_labels(rows: HostBatch, classes: int) -> None:
    """
    Raises:
      UserError: a label outside of 0 to `classes` - 1.
    """
    lowest, highest = int(rows["label"].min()), int(rows["label"].max())
    if lowest < 0 or highest >= classes:
        raise UserError(
            f"found the label {lowest if lowest < 0 else highest}, expected 0 to {classes - 1}: model.num_classes="
            f"{classes} does not fit this data set; 0 takes the number of its classes"
        )


def summarize(sums: dict[str, Any]) -> dict[str, float]:
    """Means over the evaluation set, and its exact number of images."""
    return means(sums) | {"images": float(sums["loss"][1])}
