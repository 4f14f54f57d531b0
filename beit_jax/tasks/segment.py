"""Semantic segmentation (BEiT paper, section 3.2; official `semantic_segmentation`).

Training sees crops of one size, with an auxiliary loss on features of the middle; evaluation slides a window of that
size over whole images, and counts pixels at the size of the label maps.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from beit_jax.config.encoder import image_shape
from beit_jax.config.segment import canvas
from beit_jax.config.shared import VECTORS
from beit_jax.models import setr_pup, upernet, vit
from beit_jax.models.label_maps import IGNORE
from beit_jax.tasks import confusion, segmentation_metrics
from beit_jax.tasks.encoder import encoder_fields
from beit_jax.tasks.report import Curve, Headline, Report, Table
from beit_jax.tasks.segmentation_loss import cross_entropy
from beit_jax.tasks.shown_bands import chosen
from beit_jax.tasks.sliding_window import predict
from beit_jax.tasks.task import Task, spec
from beit_jax.typing import Batch, Metrics, Params, Spec

AUXILIARY_WEIGHT = 0.4  # of the auxiliary loss, as in the released code
DROPOUT = {"upernet": 0.1, "setr_pup": 0.0}  # before the classifiers, as in the released code and in the paper
OPACITY = 0.6  # of the class's colour in pictures


@dataclasses.dataclass(frozen=True, eq=False)
class Segment(Task):
    """See `Task`.

    Training batches hold `image` `[b, h, w, c]` normalised and `label_map` int32 `[b, h, w]`, 255 where nothing counts;
    evaluation batches images and label maps of any size, at the top left of canvases, and `size` and `label_size`
    int32 `[b, 2]`. Images higher than wide lie on their canvas transposed, see `sliding_window`.
    """

    @functools.cached_property
    def model(self) -> upernet.UperNet | setr_pup.SetrPup:
        """See `Task.model`."""
        section = self.config.model
        encoder = vit.Encoder(**encoder_fields(section), init_scheme="finetune", final_norm=False)
        shared = dict(
            encoder=encoder, num_classes=section.num_classes, channels=section.channels, dropout=DROPOUT[section.head]
        )
        if section.head == "setr_pup":
            return setr_pup.SetrPup(**shared, auxiliary_layers=tuple(section.layers))
        return upernet.UperNet(**shared, layers=tuple(section.layers), auxiliary_channels=section.auxiliary_channels)

    @property
    def ignored_parameters(self) -> tuple[str, ...]:
        """See `Task.ignored_parameters`."""
        return (r"^(lm_head/|aggregation_|average/|head/|fc_norm/)", r"^encoder/(mask_token$|norm/)")

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """See `Task.without_gradient`: the running statistics of the batch norms."""
        return (r"norm/(mean|var)$",)

    @property
    def no_decay(self) -> tuple[str, ...]:
        """See `Task.no_decay`. Class token and positions are decayed.

        The released code exempts "cls_token" and "pos_embed", but mmcv calls them "backbone.cls_token" and
        "backbone.pos_embed".
        """
        return (VECTORS,)

    @property
    def class_parameters(self) -> tuple[str, ...]:
        """See `Task.class_parameters`."""
        return (r"head(_\d+)?/classifier/",)

    def init(self, key: jax.Array) -> Params:
        """See `Task.init`."""
        return self.model.init(key, jnp.zeros((1, *image_shape(self.config)), jnp.float32))["params"]

    def train_spec(self, b: int) -> Spec:
        """See `Task.train_spec`."""
        side = self.config.model.image_size
        return {"image": spec("float32", b, *image_shape(self.config)), "label_map": spec("int32", b, side, side)}

    def eval_spec(self, b: int) -> Spec:
        """See `Task.eval_spec`."""
        label_side = self.config.inference.label_side
        return {
            "image": spec("float32", b, *canvas(self.config), self.config.data.channels),
            "label_map": spec("int32", b, label_side, label_side),
            "size": spec("int32", b, 2),
            "label_size": spec("int32", b, 2),
        }

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """See `Task.loss`; the updates are the running statistics of the batch norms."""
        rngs = dict(zip(("drop_path", "dropout"), jax.random.split(key), strict=True))
        (logits, auxiliary), sown = self.model.apply(
            {"params": params}, batch["image"], train=True, rngs=rngs, mutable=["updates"]
        )
        total, count = cross_entropy(logits, batch["label_map"])
        for extra in auxiliary:
            total += AUXILIARY_WEIGHT * cross_entropy(extra, batch["label_map"])[0]
        updates = jax.tree.map(lambda sowed: sowed[0], sown["updates"], is_leaf=lambda x: isinstance(x, tuple))
        return {"loss": (total, count)}, updates

    def classes(self, params: Params, batch: Batch) -> jax.Array:
        """The class of each pixel of an evaluation batch, int32 `[b, label_side, label_side]`."""
        inference, side = self.config.inference, self.config.model.image_size
        return predict(
            lambda windows: self.model.apply({"params": params}, windows)[0],
            *(batch[name] for name in ("image", "size", "label_size")),
            crop=side,
            stride=inference.stride or max(2 * side // 3, 1),
            label_side=batch["label_map"].shape[1],
            ratios=inference.ratios,
            flip=inference.flip,
            clamp_to_crop=inference.clamp_to_crop,
        )

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        """See `Task.measure`."""
        valid = batch["valid"]
        labels = jnp.where(valid[:, None, None], batch["label_map"], IGNORE)
        confusion = segmentation_metrics.confusion_matrix(
            self.classes(params, batch), labels, self.config.model.num_classes
        )
        height, width = batch["label_size"].T
        pixels = jnp.sum(jnp.where(valid, height * width, 0), dtype=jnp.float32)
        return {"confusion": confusion, "pixels": pixels, "images": jnp.sum(valid, dtype=jnp.float32)}

    def summarize(self, sums: dict[str, Any]) -> dict[str, float]:
        """Those of `summarize_confusion`, the fraction of pixels that do not count, and the exact number of images."""
        numbers = segmentation_metrics.summarize_confusion(sums["confusion"])
        ignored = max(1.0 - float(sums["confusion"].sum() / sums["pixels"]), 0.0)
        return numbers | {"ignored": ignored, "images": float(sums["images"])}

    def tables(self, sums: Mapping[str, Any]) -> dict[str, Table]:
        """`classes`, the pixels and the accuracy of each class, and `confusion`."""
        counts, names = sums["confusion"], confusion.names_of(self.config.labels, self.config.model.num_classes)
        return {
            "classes": segmentation_metrics.class_table(names, counts),
            "confusion": confusion.confusion_table(names, counts),
        }

    def pictures(self, params: Params, frozen: Params, batch: Batch) -> dict[str, jax.Array]:
        """See `Task.pictures`."""
        data = self.config.data
        shown = batch["image"][..., np.array(chosen(data.channels, data.bands))]
        return overlays({**batch, "image": shown}, self.classes(params, batch), self.config.model)

    @property
    def integer_bounds(self) -> Mapping[str, int]:
        """See `Task.integer_bounds`."""
        return {"label_map": self.config.model.num_classes}

    @property
    def report(self) -> Report:
        """See `Task.report`."""
        return Report(
            "segment",
            curves=(
                Curve("loss", "", "nats per pixel"),
                Curve("", "eval/miou", "mean intersection over union"),
            ),
            headlines=(
                Headline("miou", "mIoU, %", 100),
                Headline("pixel_accuracy", "pixel accuracy, %", 100),
            ),
            metrics={
                "miou": "intersection over union, mean over classes",
                "mean_accuracy": "fraction of each class's pixels that are right, mean over classes",
                "pixel_accuracy": "fraction of labelled pixels that are right",
                "classes": "classes that occur in labels or predictions, over which miou is the mean",
                "ignored": f"fraction of pixels that have no label ({IGNORE}) and do not count",
                "images": "evaluation images counted",
            },
            captions={
                "image": "held-out images, contrast stretched",
                "label_map": "their true classes",
                "segmentation": "the predicted classes",
            },
            matrices={"confusion": "pixels of true classes (rows) by predicted class"},
        )


def palette(classes: int) -> np.ndarray:
    """Colours in [0, 1], `[classes, 3]`: the first is black, the others are spread around the circle of hues."""
    hues = np.arange(classes) * 0.618034 % 1.0  # the golden ratio keeps neighbours apart
    phases = hues[:, None] + np.array([[0.0, 1 / 3, 2 / 3]])
    colours = 0.5 + 0.5 * np.cos(2 * np.pi * phases)
    colours[0] = 0.0
    return colours.astype(np.float32)


def overlays(batch: Batch, predicted: jax.Array, model: ConfigDict) -> dict[str, jax.Array]:
    """The images, with their true and their predicted classes on top, at the size that the network sees.

    Args:
      batch: of an evaluation.
      predicted: int32 `[b, label_side, label_side]`.
      model: the section of the config; larger images are reduced to squares of `image_size`.

    Returns:
      `[b, image_size, image_size, 3]` in [0, 1] by name; contrast is stretched, since normalisation cannot be undone
      here.
    """
    size, label_size, side = batch["size"], batch["label_size"], model.image_size
    scale = jnp.maximum(jnp.max(size, axis=1, keepdims=True), side)
    pixels = (2 * jnp.arange(side, dtype=jnp.int32)[None] + 1) * scale // (2 * side)  # of the image: at these centres
    inside = [pixels < size[:, axis, None] for axis in (0, 1)]
    inside = (inside[0][:, :, None] & inside[1][:, None])[..., None]
    images = _on_canvas(batch["image"], pixels, size)
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
    colours = jnp.asarray(palette(model.num_classes))

    def painted(labels: jax.Array) -> jax.Array:
        seen = jax.vmap(lambda one, y, x: one[y][:, x])(labels, rows, columns)
        colour = colours[jnp.clip(seen, 0, model.num_classes - 1)]
        marked = (inside[..., 0] & (seen != IGNORE))[..., None]
        return jnp.where(marked, OPACITY * colour + (1 - OPACITY) * shown, shown)

    return {"image": shown, "label_map": painted(batch["label_map"]), "segmentation": painted(predicted)}


def _on_canvas(canvases: jax.Array, pixels: jax.Array, size: jax.Array) -> jax.Array:
    """The rows and columns `pixels`, int32 `[b, n]`, of the images on canvases, `[b, n, n, 3]`."""

    def pick(canvas: jax.Array, index: jax.Array, transposed: jax.Array) -> jax.Array:
        rows, columns = (jnp.minimum(index, length - 1) for length in canvas.shape[:2])
        picked = canvas[rows][:, columns]
        return jnp.where(transposed, jnp.swapaxes(picked, 0, 1), picked)

    return jax.vmap(pick)(canvases, pixels, size[:, 0] > size[:, 1])
