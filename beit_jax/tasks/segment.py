"""Semantic segmentation (BEiT paper, section 3.2; official `semantic_segmentation`).

Training sees crops of one size, with an auxiliary loss on features of the middle; evaluation slides a window of that
size over whole images, and counts pixels at the size of the label maps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from beit_jax.errors import UserError
from beit_jax.models import setr_pup, upernet, vit
from beit_jax.tasks.encoder import encoder_fields
from beit_jax.tasks.segmentation_loss import cross_entropy
from beit_jax.tasks.segmentation_metrics import IGNORE, confusion
from beit_jax.tasks.segmentation_metrics import summarize as summarize_counts
from beit_jax.tasks.sliding_window import predict
from beit_jax.tasks.task import STATISTICS, Batch, HostBatch, Metrics, Params, Task

OVERLAY = 0.6  # share of the class's colour in pictures


def model(config: ConfigDict) -> upernet.UperNet | setr_pup.SetrPup:
    """The network of a config."""
    section = config.model
    encoder = vit.Encoder(**encoder_fields(section), init_scheme="finetune", final_norm=False)
    shared = dict(encoder=encoder, num_classes=section.num_classes, channels=section.channels, dropout=section.dropout)
    if section.head == "setr_pup":
        return setr_pup.SetrPup(**shared, auxiliary_layers=tuple(section.layers))
    return upernet.UperNet(**shared, layers=tuple(section.layers), auxiliary_channels=section.auxiliary_channels)


def init(config: ConfigDict, key: jax.Array) -> Params:
    """Fresh parameters."""
    size = config.model.image_size
    return model(config).init(key, jnp.zeros((1, size, size, 3), jnp.float32))["params"]


def create(config: ConfigDict) -> Task:
    """The segmentation task.

    Training batches hold `image` `[b, h, w, 3]` normalised and `label_map` int32 `[b, h, w]`, 255 where nothing counts;
    evaluation batches images and label maps of any size, at the top left of canvases, and `size` and `label_size`
    int32 `[b, 2]`.
    """
    net, size, classes, inference = model(config), config.model.image_size, config.model.num_classes, config.inference

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array) -> Metrics:
        rngs = dict(zip(("drop_path", "dropout"), jax.random.split(key), strict=True))
        (logits, auxiliary), sown = net.apply(
            {"params": params}, batch["image"], train=True, rngs=rngs, mutable=["updates"]
        )
        labels = batch["label_map"]
        total, count = cross_entropy(logits, labels, config.loss_denominator)
        for extra in auxiliary:
            total += config.auxiliary_weight * cross_entropy(extra, labels, config.loss_denominator)[0]
        return {
            "loss": (total, jnp.maximum(count, 1.0)),
            STATISTICS: jax.tree.map(lambda sowed: sowed[0], sown["updates"], is_leaf=lambda x: isinstance(x, tuple)),
        }

    def predicted(params: Params, batch: Batch) -> jax.Array:
        def logits_of(windows: jax.Array) -> jax.Array:
            return net.apply({"params": params}, windows)[0]

        return predict(
            logits_of,
            *(batch[name] for name in ("image", "size", "label_size")),
            crop=size,
            stride=inference.stride or max(2 * size // 3, 1),
            label_side=batch["label_map"].shape[1],
            ratios=inference.ratios,
            flip=inference.flip,
            clamp_to_crop=inference.clamp_to_crop,
        )

    def measure(params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        valid = batch["valid"]
        labels = jnp.where(valid[:, None, None], batch["label_map"], IGNORE)
        return {
            "confusion": confusion(predicted(params, batch), labels, classes),
            "images": jnp.sum(valid, dtype=jnp.float32),
        }

    def batch_spec(b: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "image": jax.ShapeDtypeStruct((b, size, size, 3), jnp.float32),
            "label_map": jax.ShapeDtypeStruct((b, size, size), jnp.int32),
        }

    def eval_spec(b: int) -> dict[str, jax.ShapeDtypeStruct]:
        sizes = jax.ShapeDtypeStruct((b, 2), jnp.int32)
        side, label_side = inference.side, inference.label_side
        return {
            "image": jax.ShapeDtypeStruct((b, side, side, 3), jnp.float32),
            "label_map": jax.ShapeDtypeStruct((b, label_side, label_side), jnp.int32),
            **dict.fromkeys(("size", "label_size"), sizes),
        }

    return Task(
        name="segment",
        batch_spec=batch_spec,
        eval_spec=eval_spec,
        init=lambda key: init(config, key),
        loss=loss,
        measure=measure,
        summarize=summarize,
        check=lambda rows: check_labels(rows, classes),
        pictures=lambda params, frozen, batch: overlays(batch, predicted(params, batch), classes),
    )


def summarize(sums: dict[str, Any]) -> dict[str, float]:
    """`miou`, `mean_accuracy`, `pixel_accuracy` and the exact number of images."""
    return summarize_counts(sums["confusion"]) | {"images": float(sums["images"])}


def check_labels(rows: HostBatch, classes: int) -> None:
    """
    Raises:
      UserError: a label that is neither a class nor 255, or none at all.
    """
    labels = rows["label_map"][rows["label_map"] != IGNORE]
    if not labels.size:
        raise UserError(f"found no labelled pixel in the first batch, expected labels 0 to {classes - 1}")
    if labels.max() >= classes or labels.min() < 0:
        raise UserError(
            f"found the label {labels.max()}, expected 0 to {classes - 1}, or {IGNORE} for pixels that do not count: "
            "set model.num_classes, or put reduce_zero_label into the ops where 0 is no class"
        )


def palette(classes: int) -> np.ndarray:
    """Colours in [0, 1], `[classes, 3]`: the first is black, the others are spread around the circle of hues."""
    hues = np.arange(classes) * 0.618034 % 1.0  # the golden ratio keeps neighbours apart
    phases = hues[:, None] + np.array([[0.0, 1 / 3, 2 / 3]])
    colours = 0.5 + 0.5 * np.cos(2 * np.pi * phases)
    colours[0] = 0.0
    return colours.astype(np.float32)


def overlays(batch: Batch, classes_found: jax.Array, classes: int) -> dict[str, jax.Array]:
    """The images, with their true and their predicted classes on top, at the size that the network sees.

    Args:
      batch: of an evaluation.
      classes_found: int32 `[b, label_side, label_side]`.
      classes: number of classes.

    Returns:
      `[b, side, side, 3]` in [0, 1] by name; contrast is stretched, since normalisation cannot be undone here.
    """
    images, size, label_size = batch["image"], batch["size"], batch["label_size"]
    pixels = jnp.arange(images.shape[1], dtype=jnp.int32)[None]
    inside = [pixels < size[:, axis, None] for axis in (0, 1)]
    inside = (inside[0][:, :, None] & inside[1][:, None])[..., None]
    lowest = jnp.min(jnp.where(inside, images, jnp.inf), axis=(1, 2, 3), keepdims=True)
    highest = jnp.max(jnp.where(inside, images, -jnp.inf), axis=(1, 2, 3), keepdims=True)
    shown = jnp.where(inside, (images - lowest) / jnp.maximum(highest - lowest, 1e-6), 1.0)
    # Where the centres of the image's pixels lie in the label map.
    rows, columns = (
        jnp.minimum(
            (2 * pixels + 1) * label_size[:, axis, None] // (2 * size[:, axis, None]), label_size[:, axis, None] - 1
        )
        for axis in (0, 1)
    )
    colours = jnp.asarray(palette(classes))

    def painted(labels: jax.Array) -> jax.Array:
        seen = jax.vmap(lambda one, y, x: one[y][:, x])(labels, rows, columns)
        colour = colours[jnp.clip(seen, 0, classes - 1)]
        marked = (inside[..., 0] & (seen != IGNORE))[..., None]
        return jnp.where(marked, OVERLAY * colour + (1 - OVERLAY) * shown, shown)

    return {"image": shown, "label_map": painted(batch["label_map"]), "segmentation": painted(classes_found)}
