"""The terms of BEiT's evidence lower bound on held-out images (BEiT paper, section 2.4), in nats per image.

x is the tokenizer's view of an image, z its tokens, q(z | x) the tokenizer's encoder, p(x | z) its decoder.
log p(x | z) sums over pixels and channels the log density of values in [0.1, 0.9] (`dvae.map_pixels`); a density may
exceed 1, so that these numbers may be positive. v is the size of the codebook, M the set of masked patches, n the
number of all.

Stage 1, the tokenizer, has the uniform prior over tokens:

    bound_stage1 = reconstruction - kl_to_uniform  <=  log p(x)   in expectation over the draw,

  reconstruction   log p(x | z) for z drawn from q(z | x), one draw an image that depends on its index in the set;
  kl_to_uniform    KL(q(z | x) || uniform), between 0 and n ln v.

Stage 2, the pre-training, leaves encoder and decoder as they are, takes for q the one point z^ = argmax q(z | x), and
learns a prior from what is visible. With a single point, -KL(q || prior) is the prior's log probability of it:

    bound_stage2 = reconstruction_argmax + masked_log_likelihood  <=  log p(x | visible patches, their tokens),

  reconstruction_argmax          log p(x | z^);
  masked_log_likelihood          the sum over M of log p(z^_i | visible patches), which pre-training maximises;
  masked_log_likelihood_uniform  -|M| ln v, what the uniform prior of stage 1 gives to the same tokens.

The bound holds because z^ is one term of the sum over all tokens that could stand in M. It is one on the conditional
density: tokens of visible patches are given and cost nothing, since the released model, like BERT, is trained on masked
patches only. So the two bounds are of different quantities, and not to be compared; what pre-training adds is
`masked_log_likelihood - masked_log_likelihood_uniform`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from beit_jax.errors import UserError
from beit_jax.models.tokenizer import Tokenizer, kl_to_uniform
from beit_jax.tasks.pretrain import Pretrain
from beit_jax.tasks.task import FrozenPart, Task, means
from beit_jax.tasks.tokenizer import TrainTokenizer
from beit_jax.typing import Batch, HostBatch, Params, Spec


def elbo_task(task: Task) -> Task:
    """The task that measures the terms of the bound for a tokenizer or a pre-training.

    Batches of evaluation hold `index` int `[b]` besides what the task takes.

    Raises:
      UserError: the task has no tokens, or predicts others than masked ones, or its tokenizer gives no likelihood.
    """
    if not isinstance(task, TrainTokenizer | Pretrain):
        raise UserError(
            f"found a model of the task {task.config.task!r}, expected a tokenizer or a model pre-trained on tokens: "
            "no other has the bound"
        )
    if not task.tokenizer.has_likelihood:
        raise UserError(
            f"found a tokenizer of the kind {task.tokenizer.section.kind!r}, expected one that gives a likelihood of "
            "pixels, such as dvae: no other has the bound"
        )
    if isinstance(task, TrainTokenizer):
        return _FirstStage(task.config, task)
    if task.on_all:
        raise UserError("found loss_on='all'; expected a model of the tokens of masked patches")
    return _SecondStage(task.config, task)


@dataclasses.dataclass(frozen=True, eq=False)
class _Elbo(Task):
    """What the bounds of both stages take from the task that they measure."""

    of: Any

    @property
    def frozen_parts(self) -> Mapping[str, FrozenPart]:
        return self.of.frozen_parts

    def init(self, key: jax.Array) -> Params:
        return self.of.init(key)

    def eval_spec(self, b: int) -> Spec:
        return self.of.eval_spec(b)

    def check_batch(self, batch: HostBatch) -> None:
        self.of.check_batch(batch)

    def pictures(self, params: Params, frozen: Params, batch: Batch) -> dict[str, jax.Array]:
        return self.of.pictures(params, frozen, batch)

    def summarize(self, sums: dict[str, Any]) -> dict[str, float]:
        return summarize(sums)


class _FirstStage(_Elbo):
    """The bound of a tokenizer."""

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        return _tokenizer_terms(self.of.tokenizer, params, batch["image"], batch)


class _SecondStage(_Elbo):
    """The bound of a pre-training with its tokenizer."""

    def measure(self, params: Params, frozen: Params, batch: Batch) -> dict[str, Any]:
        first = _tokenizer_terms(self.of.tokenizer, frozen["tokenizer"], batch["tokenizer_image"], batch)
        measured = self.of.measure(params, frozen, batch)
        nll, masked = measured.get("main_loss", measured["loss"])  # of one prediction, if there are two
        reconstruction, images = first["reconstruction_argmax"]
        return first | {
            "masked_log_likelihood": (-nll, images),
            "masked_log_likelihood_uniform": (-masked * jnp.log(float(self.of.tokenizer.vocab)), images),
            "bound_stage2": (reconstruction - nll, images),
            "masked_per_image": (masked, images),
            "overflow": measured["overflow"],
        }


def _tokenizer_terms(tokenizer: Tokenizer, params: Params, images: jax.Array, batch: Batch) -> dict[str, Any]:
    """(sum, count) of the terms of stage 1."""
    valid, logits = batch["valid"].astype(jnp.float32), tokenizer.posterior(params, images)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), batch["index"])
    drawn = jax.vmap(jax.random.categorical)(keys, logits)
    reconstruction = tokenizer.log_likelihood(params, images, drawn)
    kl = jnp.sum(kl_to_uniform(logits), axis=(1, 2))
    terms = {
        "reconstruction": reconstruction,
        "kl_to_uniform": kl,
        "bound_stage1": reconstruction - kl,
        "reconstruction_argmax": tokenizer.log_likelihood(params, images, jnp.argmax(logits, axis=-1)),
    }
    return {name: (jnp.sum(values * valid), jnp.sum(valid)) for name, values in terms.items()}


def summarize(sums: dict[str, Any]) -> dict[str, float]:
    """Means over images and their exact number; `overflow`, which must be 0, counts masked patches left out."""
    overflow = {"overflow": float(sums.pop("overflow"))} if "overflow" in sums else {}
    return means(sums) | overflow | {"images": float(sums["reconstruction"][1])}
