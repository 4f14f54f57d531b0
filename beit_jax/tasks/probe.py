"""Linear probe of a frozen encoder (BEiT paper, appendix D; official `run_linear_eval.py`).

One linear classifier for each layer, all trained at once: the loss is the sum of theirs, and since they share no
parameter each learns as it would alone. The encoder is not trained. With `cache_features`, features of all images are
computed once, and a training batch holds `features` in place of `image`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.config.encoder import image_shape, patch_grid
from beit_jax.config.probe import chosen_layers
from beit_jax.models import variants, vit
from beit_jax.tasks import layers
from beit_jax.tasks.accuracy import hits
from beit_jax.tasks.classify import ACCURACIES, check_labels, cross_entropy, majority
from beit_jax.tasks.encoder import encoder_fields, encoder_flops, layer_features
from beit_jax.tasks.report import Curve, Headline, Report
from beit_jax.tasks.task import FrozenPart, Task, spec
from beit_jax.typing import Batch, HostBatch, Metrics, Params, Spec

# What checkpoints of other tasks, and of the tokenizer VQ-KD, hold beside the blocks.
NOT_PROBED = (
    r"^(lm_head/|aggregation_|average/|fc_norm/|head/|encode_head/|codebook/|decoder/|decode_head/)",
    r"^encoder/(mask_token$|norm/)",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Probe(Task):
    """See `Task`; batches hold `label` int32 `[b]`, and `image` `[b, h, w, c]` or `features` `[b, l, f]`."""

    @functools.cached_property
    def model(self) -> vit.Encoder:
        """See `Task.model`: the encoder that is probed."""
        return vit.Encoder(**encoder_fields(self.config.model), final_norm=False)

    @functools.cached_property
    def embedded_layers(self) -> tuple[int, ...]:
        """See `Task.embedded_layers`."""
        return chosen_layers(self.config.layers, variants.parse(self.config.model.variant)[0].depth)

    @property
    def _head_shape(self) -> tuple[int, int, int]:
        """Layers l, features f, classes c."""
        width = variants.parse(self.config.model.variant)[0].width * (2 if self.config.features == "cls_mean" else 1)
        return len(self.embedded_layers), width, self.config.model.num_classes

    @property
    def frozen_parts(self) -> Mapping[str, FrozenPart]:
        """See `Task.frozen_parts`."""
        config = self.config

        def init(key: jax.Array) -> Params:
            return {"encoder": self.model.init(key, jnp.zeros((1, *image_shape(self.config)), jnp.float32))["params"]}

        grid = patch_grid(config.model)
        return {"encoder": FrozenPart(init, config.encoder.init_from, config.seed, NOT_PROBED, grid)}

    @property
    def no_decay(self) -> tuple[str, ...]:
        """See `Task.no_decay`: none, because the official optimizer of the probe knows no groups."""
        return ()

    @property
    def class_parameters(self) -> tuple[str, ...]:
        """See `Task.class_parameters`."""
        return (r"^heads/",)

    def init(self, key: jax.Array) -> Params:
        """See `Task.init`: the linear classifiers."""
        layer_count, width, classes = self._head_shape
        kernel = nn.initializers.normal(0.01)(key, (layer_count, width, classes), jnp.float32)
        return {"heads": {"kernel": kernel, "bias": jnp.zeros((layer_count, classes), jnp.float32)}}

    @property
    def evals(self) -> ConfigDict:
        """See `Task.evals`."""
        return self.config.evals

    @property
    def caches_features(self) -> bool:
        """See `Task.caches_features`."""
        return self.config.cache_features

    def eval_spec(self, b: int) -> Spec:
        """See `Task.eval_spec`."""
        return {"image": spec("float32", b, *image_shape(self.config)), "label": spec("int32", b)}

    ops_spec = eval_spec

    def train_spec(self, b: int) -> Spec:
        """See `Task.train_spec`."""
        if not self.config.cache_features:
            return self.eval_spec(b)
        layer_count, width, _ = self._head_shape
        return {"features": spec("float32", b, layer_count, width), "label": spec("int32", b)}

    def check_batch(self, batch: HostBatch) -> None:
        """See `Task.check_batch`."""
        check_labels(batch, self.config.model.num_classes)

    def embed(self, params: Params, frozen: Params, images: jax.Array) -> jax.Array:
        """See `Task.embed`."""
        encoder = frozen["encoder"]["encoder"]
        features = layer_features(self.model, encoder, images, self.config.features, self.embedded_layers)
        return jax.lax.stop_gradient(features)

    def logits(self, params: Params, frozen: Params, batch: Batch) -> jax.Array:
        """float32 `[b, l, c]`."""
        x = batch["features"] if "features" in batch else self.embed(params, frozen, batch["image"])
        return jnp.einsum("blf,lfc->blc", x, params["heads"]["kernel"]) + params["heads"]["bias"][None]

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """See `Task.loss`."""
        losses = _losses(self.logits(params, frozen, batch), batch["label"])
        return {"loss": (jnp.sum(losses), jnp.float32(losses.shape[0]))}, {}

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        """See `Task.measure`; sums `[l]`."""
        logits, valid = self.logits(params, frozen, batch), batch["valid"].astype(jnp.float32)
        labels = jnp.broadcast_to(batch["label"][:, None], logits.shape[:2])
        values = {"loss": _losses(logits, batch["label"])} | hits(logits, labels)
        sums = {name: jnp.einsum("bl,b->l", value.astype(jnp.float32), valid) for name, value in values.items()}
        labelled = jnp.zeros(logits.shape[-1], jnp.float32).at[batch["label"]].add(valid)
        return sums | {"images": jnp.sum(valid), "labelled": labelled}

    def summarize(self, sums: dict[str, Any]) -> dict[str, float]:
        """The numbers of the layer with the best top-1, its number, and the top-1 of each layer.

        The best layer is chosen on the images that are counted, as officially.
        """
        images, labelled = float(sums["images"]), sums["labelled"]
        means = {name: value / images for name, value in sums.items() if name not in ("images", "labelled")}
        best = layers.best_layer_metrics(means, self.embedded_layers)
        return best | {"majority": majority(labelled), "images": images}

    @property
    def integer_bounds(self) -> Mapping[str, int]:
        """See `Task.integer_bounds`."""
        return {"label": self.config.model.num_classes}

    def training_flops(self) -> int:
        """See `Task.training_flops`; the encoder has no backward pass, and ends with the last layer that is probed."""
        layer_count, width, classes = self._head_shape
        head, last = 2 * 2 * layer_count * width * classes, max(self.embedded_layers)
        if self.config.cache_features:
            return head
        return head + encoder_flops(self.config.model, self.config.data.channels, backward=False, depth=last)

    @property
    def report(self) -> Report:
        """See `Task.report`."""
        return Report(
            "probe",
            curves=(
                Curve("", "eval/loss", "nats per image"),
                Curve("", "eval/top1", "top-1 accuracy of the best layer"),
            ),
            headlines=(
                Headline("top1", "linear probe of the best layer, top-1, %", 100),
                Headline("best_layer", "that layer", form="{:.0f}", averaged=False),
                Headline("majority", "majority baseline, %", 100),
            ),
            metrics={
                "loss": "cross-entropy of the best layer on the evaluation set",
                **ACCURACIES,
                "best_layer": "the layer with the best top1, counted from 1",
            },
        )


def _losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy `[b, l]` of logits `[b, l, c]`."""
    return jax.vmap(lambda layer: cross_entropy(layer, labels, 0.0), in_axes=1, out_axes=1)(logits)
