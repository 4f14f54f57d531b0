"""Masked image modelling on features in place of tokens, of a teacher or of the model itself.

The model sees the image with patches hidden and predicts, for each of these, what another network makes of the whole
image: a frozen teacher (as MVP and MaskDistill do, arXiv 2203.05175 and 2210.10615), or an average of the encoder's own
past parameters (data2vec, arXiv 2202.03555), of which it predicts the mean of the last blocks. A layer norm without
parameters standardises the features of each patch, those of each block before the mean too.

The average follows the encoder before each step, a_t = decay a_(t-1) + (1 - decay) theta_t, with a_0 = theta_0. It is
a parameter without a gradient, and is saved with the others.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from beit_jax.config import fill_in_sizes, statistics
from beit_jax.models import heads, variants
from beit_jax.models.teacher import Teacher, features_on_grid
from beit_jax.tasks.device_choices import compute_dtype
from beit_jax.tasks.encoder import encoder_flops
from beit_jax.tasks.masked_modelling import MaskedModelling
from beit_jax.tasks.pretrain_report import hide_patches
from beit_jax.tasks.report import Curve, Headline, Report
from beit_jax.tasks.task import FrozenPart, means
from beit_jax.tasks.teachers import create_teacher
from beit_jax.typing import Batch, Metrics, Params

EPSILON = 1e-6  # of the variance of a feature
COLLAPSED = 0.1  # a variance of targets over patches, of 1, below which data2vec gives up


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainFeatures(MaskedModelling):
    """See `MaskedModelling`; `image` is normalized by the op `normalize`, or else has pixels in [0, 1]."""

    @functools.cached_property
    def teacher(self) -> Teacher | None:
        """The frozen network whose features are predicted; None: it is the average of the encoder."""
        if self.config.target.source == "average":
            return None
        return create_teacher(self.config.teacher, compute_dtype(self.config.model.dtype), self.config.data.channels)

    @property
    def outputs(self) -> int:
        """See `MaskedModelling.outputs`: the numbers of a feature."""
        return self.teacher.width if self.teacher else variants.parse(self.config.model.variant)[0].width

    @property
    def frozen_parts(self) -> Mapping[str, FrozenPart]:
        """See `Task.frozen_parts`."""
        if self.teacher is None:
            return {}
        teacher, path = self.teacher, self.config.teacher.path
        return {"teacher": FrozenPart(teacher.init, path, ignored=teacher.ignored, grid=teacher.grid)}

    def init(self, key: jax.Array) -> Params:
        """See `Task.init`."""
        params = super().init(key)
        if self.teacher:
            return params
        copy = jax.tree.map(jnp.copy, params["encoder"])
        return params | {"average": {"encoder": copy, "is_made": jnp.zeros((1,), jnp.float32)}}

    @property
    def optional_parameters(self) -> tuple[str, ...]:
        """See `Task.optional_parameters`: the average starts as the encoder."""
        return (r"^average/",)

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """See `Task.without_gradient`."""
        return (r"^average/",)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """See `Task.loss`; the new value is that of the average."""
        followed = {} if self.teacher else {"average": self._followed(params)}
        predicted, positions, masked = self.predict(params, batch, key)
        targets = self.targets(params | followed, frozen, batch, positions)
        error = self._error(predicted, targets, self.loss_weights(masked))
        return {"loss": error} | self.mask_metrics(masked), followed

    def targets(self, params: Params, frozen: Params, batch: Batch, positions: jax.Array) -> jax.Array:
        """What is to be predicted at row-major `positions` `[b, k]`, without a gradient: float32 `[b, k, c]`."""
        if self.teacher:
            pixels = to_pixels(batch["image"], self.statistics)
            features = features_on_grid(self.teacher.features(frozen["teacher"], pixels), self.teacher.grid, self.grid)
            features = jnp.take_along_axis(features, positions[..., None], axis=1)
        else:
            variables = {"params": params["average"]["encoder"]}
            outputs = self.model.encoder.apply(variables, batch["image"], all_layers=True)
            layers = self.config.target.layers
            features = sum(standardised(heads.patches_at(x, positions)) for x in outputs[-layers:]) / layers
        return jax.lax.stop_gradient(standardised(features))

    @functools.cached_property
    def statistics(self) -> statistics.Statistics:
        """By which the ops normalize pixels."""
        ops = fill_in_sizes(self.config).data.ops
        return statistics.of_ops(ops) or ((0.0,) * self.config.data.channels, (1.0,) * self.config.data.channels)

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        """See `Task.measure`."""
        predicted, positions, masked = self.predict(params, batch)
        weights = self.loss_weights(masked) * batch["valid"].astype(jnp.float32)[:, None]
        targets = self.targets(params, frozen, batch, positions)
        return {
            "loss": self._error(predicted, targets, weights),
            "targets": (jnp.einsum("bkc,bk->c", targets, weights), jnp.einsum("bkc,bk->c", targets**2, weights)),
            "count": jnp.sum(weights),
            "overflow": self.overflow(batch),
        }

    def summarize(self, sums: dict[str, Any]) -> dict[str, float]:
        """See `Task.summarize`; warns if the targets of all patches are nearly the same."""
        (total, squares), count = sums.pop("targets"), float(sums.pop("count"))
        variance = float(np.mean(np.asarray(squares) / count - (np.asarray(total) / count) ** 2))
        if variance < COLLAPSED:
            logging.getLogger("beit_jax").warning(
                "the targets have collapsed: their variance over patches is %.3f, of 1, so that there is little to "
                "predict; raise target.decay, or lower optimizer.lr",
                variance,
            )
        overflow = float(sums.pop("overflow"))
        return means(sums) | {"target_variance": variance, "overflow": overflow}

    def pictures(self, params: Params, frozen: Params, batch: Batch) -> dict[str, jax.Array]:
        """See `Task.pictures`."""
        original = jnp.clip(to_pixels(batch["image"], self.statistics), 0.0, 1.0)
        return {"original": original, "masked": hide_patches(original, batch["mask"])}

    def training_flops(self) -> int:
        """See `Task.training_flops`, with those of the network that makes the targets."""
        targets = (
            self.teacher.flops()
            if self.teacher
            else encoder_flops(self.config.model, self.config.data.channels, backward=False)
        )
        return super().training_flops() + targets

    @property
    def report(self) -> Report:
        """See `Task.report`."""
        of_loss = "smooth L1 of standardised features"
        return Report(
            "pretrain, features",
            curves=(Curve("loss", "eval/loss", of_loss), Curve("", "eval/target_variance", "variance of targets")),
            headlines=(Headline("loss", of_loss, form="{:.3f}"),),
            metrics={
                "loss": f"{of_loss} at masked patches, on the evaluation set",
                "target_variance": "of the targets over patches, the mean over their numbers; 0: all are the same",
                "overflow": "masked patches that the head left out; 0 is right",
            },
            captions={"original": "held-out images", "masked": "what BEiT sees"},
        )

    def _followed(self, params: Params) -> Params:
        """The average, after one of the micro-batches of a step: together they have the decay of the step."""
        average, encoder = params["average"], jax.lax.stop_gradient(params["encoder"])
        decay = self.config.target.decay ** (1 / self.config.optimizer.accumulate)
        kept = jnp.where(average["is_made"][0] > 0, decay, 0.0)
        mixed = jax.tree.map(lambda old, new: kept * old + (1.0 - kept) * new, average["encoder"], encoder)
        return {"encoder": mixed, "is_made": jnp.ones((1,), jnp.float32)}

    def _error(self, predicted: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Sum and count over patches of weight, of predictions `[b, k, c]`."""
        beta = self.config.target.beta
        errors = jnp.mean(optax.losses.huber_loss(predicted, targets, delta=beta) / beta, axis=-1)
        return jnp.sum(errors * weights), jnp.sum(weights)


def standardised(features: jax.Array) -> jax.Array:
    """Features `[..., c]` with mean 0 and variance 1 over their numbers."""
    centred = features - jnp.mean(features, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + EPSILON)


def to_pixels(images: jax.Array, pair: statistics.Statistics) -> jax.Array:
    """Normalized images `[b, h, w, c]` -> pixels in [0, 1]."""
    mean, std = (jnp.asarray(numbers, jnp.float32)[None, None, None] for numbers in pair)
    return images * std + mean
