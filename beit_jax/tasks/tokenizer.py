"""Learns a visual tokenizer of any kind (see `models.tokenizer`).

It is the first of BEiT's two stages (BEiT paper, section 2.4). An image x with tokens z is a latent variable model,
p(x) = sum_z p(z) p(x | z), and its bound

    log p(x) >= E_q(z | x) [log p(x | z)] - KL(q(z | x) || p(z))

is maximised here over encoder q and decoder p(x | z): the paper's equation 2, with a uniform prior p(z). The second
stage, `pretrain`, leaves both as they are and learns the prior. `evaluate --bound` reports the terms; see `elbo`.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from beit_jax.config.encoder import image_shape
from beit_jax.errors import UserError
from beit_jax.models.teacher import Teacher
from beit_jax.models.tokenizer import Tokenizer
from beit_jax.tasks.device_choices import compute_dtype, unrolled_blocks
from beit_jax.tasks.report import Curve, Headline, Report
from beit_jax.tasks.task import FrozenPart, Task, means, spec
from beit_jax.tasks.teachers import create_teacher
from beit_jax.tasks.token_classes import count_by_class, tcas
from beit_jax.tasks.tokenizer_kinds import create_tokenizer, tokenizer_class
from beit_jax.typing import Batch, HostBatch, Metrics, Params, Spec

COLLAPSED = 0.05  # a perplexity of this fraction of the vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class TrainTokenizer(Task):
    """See `Task`; batches hold `image` `[b, h, w, c]` in the tokenizer's range."""

    @functools.cached_property
    def teacher(self) -> Teacher | None:
        """The frozen network that the tokenizer learns from, if its kind does."""
        section = self.config.get("teacher", None)
        return None if section is None else create_teacher(section, self._dtype, self.config.data.channels)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """What is trained."""
        section, settings = self.config.model, self.config.loss.copy_and_resolve_references()
        if "unroll" in settings:
            settings.unroll = unrolled_blocks(settings.unroll, section.variant)
        sizes, channels = (section.image_size, self._dtype), self.config.data.channels
        return create_tokenizer(section, *sizes, settings, self.teacher, channels)

    @property
    def _dtype(self) -> jnp.dtype:
        return compute_dtype(self.config.loss.get("dtype", "float32"))  # as the published dVAE

    @property
    def model(self) -> nn.Module:
        """See `Task.model`."""
        return self.tokenizer.model

    def init(self, key: jax.Array) -> Params:
        """See `Task.init`."""
        return self.tokenizer.init(key)

    @property
    def frozen_parts(self) -> Mapping[str, FrozenPart]:
        """See `Task.frozen_parts`: the teacher, if the tokenizer learns from one."""
        if self.teacher is None:
            return {}
        path = self.config.teacher.path
        return {"teacher": FrozenPart(self.teacher.init, path, ignored=self.teacher.ignored, grid=self.teacher.grid)}

    @property
    def without_gradient(self) -> tuple[str, ...]:
        """See `Task.without_gradient`."""
        return self.tokenizer.without_gradient

    def train_spec(self, b: int) -> Spec:
        """See `Task.train_spec`."""
        return {"image": spec("float32", b, *image_shape(self.config))}

    def eval_spec(self, b: int) -> Spec:
        """See `Task.eval_spec`."""
        return self.train_spec(b) | ({"label": spec("int32", b)} if self.config.eval_classes else {})

    def check_batch(self, batch: HostBatch) -> None:
        """See `Task.check_batch`: labels are from 0 to below `eval_classes`."""
        if self.config.eval_classes and "label" in batch:
            self._check_labels(int(batch["label"].min()), int(batch["label"].max()))

    def _check_labels(self, *labels: int) -> None:
        classes = self.config.eval_classes
        if outside := [label for label in labels if not 0 <= label < classes]:
            raise UserError(
                f"found an image of the class {outside[-1]}, counted from 0, and eval_classes={classes}; expected the "
                "number of classes of the evaluation set"
            )

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Metrics, Params]:
        """See `Task.loss`."""
        return self.tokenizer.loss(params, frozen.get("teacher", {}), batch["image"], key, step)

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        """See `Task.measure`."""
        tokenizer, valid, classes = self.tokenizer, batch["valid"].astype(jnp.float32), self.config.eval_classes
        sums = tokenizer.measure(params, frozen.get("teacher", {}), batch["image"], valid)
        if not classes:
            return sums
        tokens = tokenizer.targets(params, batch["image"])
        labels = batch["label"]
        by_class = count_by_class(tokens, labels, valid, classes, tokenizer.vocab)
        outside = jnp.sum(jnp.where((labels < 0) | (labels >= classes), valid, 0.0))
        return sums | {"by_class": by_class, "outside": outside}

    def summarize(self, sums: dict[str, Any]) -> dict[str, float]:
        """Means, `codebook_usage`, and `tcas` if there are classes. Warns if hardly any of the codebook is in use."""
        usage, tokenizer = codebook_usage(sums.pop("codes")), self.tokenizer
        if usage["perplexity_fraction"] < COLLAPSED:
            advice = f", or {tokenizer.against_collapse}" if tokenizer.against_collapse else ""
            logging.getLogger("beit_jax").warning(
                "the codebook has collapsed: images use %.0f of %d tokens, with a perplexity of %.1f, and pre-training "
                "on them has little to learn; take more images, lower model.vocab%s",
                *(usage["codes_used"], tokenizer.vocab, usage["perplexity"], advice),
            )
        if outside := int(sums.pop("outside", 0)):
            raise UserError(
                f"{outside} evaluation images are of no class from 0 to {self.config.eval_classes - 1}; expected "
                "eval_classes to be the number of their classes, or 0 to leave out TCAS"
            )
        aligned = {"tcas": tcas(sums.pop("by_class"))} if "by_class" in sums else {}
        return means(sums) | usage | aligned

    def pictures(self, params: Params, frozen: Params, batch: Batch) -> dict[str, jax.Array]:
        """See `Task.pictures`."""
        return self.tokenizer.pictures(params, batch["image"])

    def training_flops(self) -> int | None:
        """See `Task.training_flops`."""
        return self.tokenizer.training_flops()

    @property
    def report(self) -> Report:
        """See `Task.report`."""
        kind = tokenizer_class(self.config.model.kind)
        return Report(
            "tokenizer",
            curves=(
                Curve("loss", "eval/loss", kind.loss_unit),
                Curve("", "eval/perplexity", "codebook perplexity"),
            ),
            headlines=(
                Headline("perplexity", "codes in use (perplexity)"),
                Headline("codes_used", "codes that occur", form="{:.0f}"),
                Headline("tcas", "TCAS, lower is better", form="{:.4f}"),
            ),
            metrics={
                **kind.metrics,
                "perplexity": "exp of the entropy of the token frequencies: how many codes are in use",
                "perplexity_fraction": "perplexity over the size of the vocabulary",
                "codes_used": "codes that occur in the evaluation set",
                "tcas": "0: each token occurs in one class only; (c - 1) / c^2: tokens do not depend on the c classes",
            },
            captions={
                "original": "held-out images",
                "reconstruction": "the same images, decoded from their tokens",
            },
        )


def codebook_usage(counts: Any) -> dict[str, float]:
    """How much of a codebook is in use, from how often each token occurs, `[v]`.

    `perplexity` is exp of the entropy of the token frequencies, between 1 (collapsed) and v; `perplexity_fraction` is
    that divided by v; `codes_used` counts the tokens that occur.
    """
    counts = np.asarray(counts, np.float64)
    p = counts / counts.sum()
    perplexity = float(np.exp(-np.sum(p[p > 0] * np.log(p[p > 0]))))
    return {
        "perplexity": perplexity,
        "perplexity_fraction": perplexity / len(counts),
        "codes_used": float(np.count_nonzero(counts)),
    }
