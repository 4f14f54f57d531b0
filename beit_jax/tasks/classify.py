"""Image classification: fine-tuning of an encoder, or training from scratch (official `run_class_finetuning.py`)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from beit_jax.config.encoder import image_shape
from beit_jax.errors import UserError
from beit_jax.models import classifier, variants, vit
from beit_jax.tasks import confusion
from beit_jax.tasks.accuracy import hits, ranks
from beit_jax.tasks.encoder import encoder_fields, encoder_flops
from beit_jax.tasks.mixup import mix
from beit_jax.tasks.report import Curve, Headline, Report, Table
from beit_jax.tasks.task import Task, means, spec
from beit_jax.typing import Batch, HostBatch, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True, eq=False)
class Classify(Task):
    """See `Task`; batches hold `image` `[b, h, w, c]` normalised and `label` int32 `[b]`."""

    @functools.cached_property
    def model(self) -> classifier.ImageClassifier:
        """See `Task.model`."""
        section = self.config.model
        encoder = vit.Encoder(**encoder_fields(section), init_scheme="finetune", final_norm=section.pooling != "mean")
        return classifier.ImageClassifier(
            encoder=encoder, num_classes=section.num_classes, pooling=section.pooling, init_scale=section.init_scale
        )

    @property
    def ignored_parameters(self) -> tuple[str, ...]:
        """See `Task.ignored_parameters`: those of pre-training, and the norm that the mean of patches does not pass."""
        return (*PRETRAINING, *((r"^encoder/norm/",) if self.config.model.pooling == "mean" else ()))

    @property
    def class_parameters(self) -> tuple[str, ...]:
        """See `Task.class_parameters`."""
        return (r"^head/",)

    def init(self, key: jax.Array) -> Params:
        """See `Task.init`."""
        return self.model.init(key, jnp.zeros((1, *image_shape(self.config)), jnp.float32))["params"]

    def train_spec(self, b: int) -> Spec:
        """See `Task.train_spec`."""
        return {"image": spec("float32", b, *image_shape(self.config)), "label": spec("int32", b)}

    def check_batch(self, batch: HostBatch) -> None:
        """See `Task.check_batch`."""
        check_labels(batch, self.config.model.num_classes)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """See `Task.loss`."""
        config, images, labels = self.config, batch["image"], batch["label"]
        mixing = config.mixup > 0 or config.cutmix > 0
        if mixing:
            settings = config.mixup, config.cutmix, config.mix_group
            images, fraction, mixed_in = mix(jax.random.fold_in(key, 1), images, labels, *settings)
        logits = self.model.apply({"params": params}, images, train=True, rngs={"drop_path": key})
        losses, count = cross_entropy(logits, labels, config.label_smoothing), jnp.float32(logits.shape[0])
        if mixing:  # the accuracy on mixtures says little, and is not officially logged either
            partners = cross_entropy(logits, mixed_in, config.label_smoothing)
            return {"loss": (jnp.sum(fraction * losses + (1.0 - fraction) * partners), count)}, {}
        right = (ranks(logits, labels) < 1).astype(jnp.float32)
        return {"loss": (jnp.sum(losses), count), "top1": (jnp.sum(right), count)}, {}

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        """See `Task.measure`."""
        logits, labels = self.model.apply({"params": params}, batch["image"]), batch["label"]
        valid, values = batch["valid"].astype(jnp.float32), hits(logits, labels)
        counts = confusion.count_classes(logits, labels, values["top1"], batch["valid"])
        values = {"loss": cross_entropy(logits, labels, 0.0)} | values
        count = jnp.sum(valid)
        return counts | {name: (jnp.sum(value.astype(jnp.float32) * valid), count) for name, value in values.items()}

    def summarize(self, sums: dict[str, Any]) -> dict[str, float]:
        """Means over the evaluation set, the majority baseline, and the exact number of images."""
        labelled, _ = confusion.labelled_and_right(sums)
        pairs = {name: pair for name, pair in sums.items() if isinstance(pair, tuple)}
        return means(pairs) | {"majority": majority(labelled), "images": float(sums["loss"][1])}

    def tables(self, sums: Mapping[str, Any]) -> dict[str, Table]:
        """`classes`, the accuracy of each class, and `confusion`, unless there are too many classes."""
        names = confusion.names_of(self.config.labels, self.config.model.num_classes)
        made = {"classes": confusion.class_table(names, *confusion.labelled_and_right(sums))}
        if "confusion" in sums:
            made["confusion"] = confusion.confusion_table(names, sums["confusion"])
        return made

    def probabilities(self, params: Params, frozen: Params, images: jax.Array) -> jax.Array:
        """See `Task.probabilities`."""
        return jax.nn.softmax(self.model.apply({"params": params}, images).astype(jnp.float32))

    @property
    def integer_bounds(self) -> Mapping[str, int]:
        """See `Task.integer_bounds`."""
        return {"label": self.config.model.num_classes}

    def training_flops(self) -> int:
        """See `Task.training_flops`."""
        section = self.config.model
        return (
            encoder_flops(section, self.config.data.channels)
            + 3 * 2 * variants.parse(section.variant)[0].width * section.num_classes
        )

    @property
    def report(self) -> Report:
        """See `Task.report`."""
        return Report(
            "classify",
            curves=(
                Curve("loss", "eval/loss", "nats per image"),
                Curve("top1", "eval/top1", "top-1 accuracy"),
            ),
            headlines=(Headline("top1", "top-1, %", 100), Headline("majority", "majority baseline, %", 100)),
            metrics={"loss": "cross-entropy on the evaluation set"} | ACCURACIES,
            matrices={"confusion": "true classes (rows) and predicted classes of the evaluation images"},
        )


# Parameters that only pre-training has, or the tokenizer VQ-KD beside its encoder.
PRETRAINING = (
    r"^(lm_head/|aggregation_|average/)",
    r"^encoder/mask_token$",
    r"^(encode_head|codebook|decoder|decode_head)/",
)
ACCURACIES = {
    "top1": "fraction of evaluation images whose most likely class is right",
    "top5": "fraction whose right class is among the five most likely",
    "majority": "majority baseline: the top1 of always predicting the most frequent class of the evaluation images",
    "images": "evaluation images counted",
}


def majority(labelled: np.ndarray) -> float:
    """The accuracy of always predicting the most frequent class, from the number of images of each class `[c]`."""
    return float(labelled.max() / labelled.sum())


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """(1 - e) * nll + e * mean over classes of -log p: logits `[b, c]`, labels int `[b]` -> `[b]`."""
    log_p = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    return (1.0 - smoothing) * nll - smoothing * jnp.mean(log_p, axis=-1)


def check_labels(batch: HostBatch, classes: int) -> None:
    """
    Raises:
      UserError: a label outside of 0 to `classes` - 1.
    """
    lowest, highest = int(batch["label"].min()), int(batch["label"].max())
    if lowest < 0 or highest >= classes:
        raise UserError(
            f"found the label {lowest if lowest < 0 else highest}, expected 0 to {classes - 1}: model.num_classes="
            f"{classes} does not fit this data set; 0 takes the number of its classes"
        )
