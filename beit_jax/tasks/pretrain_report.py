"""What a report shows of pre-training."""

import jax
import jax.numpy as jnp
from einops import repeat

from beit_jax.tasks.report import Curve, Headline, Report
from beit_jax.tasks.shown_bands import GREY, HIDDEN, is_stretched

METRICS = {
    "loss": "cross-entropy of the tokens, on the evaluation set",
    "mlm_acc": "accuracy of the tokens predicted at masked positions",
    "all_acc": "accuracy of the tokens predicted at all positions, masked or not",
    "mlm_acc_majority": "majority baseline: the same for always guessing the most frequent token",
    "overflow": "masked patches that the head left out; 0 is right",
}
OF_BOTH = {
    "loss": "cross-entropy of the tokens, on the evaluation set, after the last block plus after the additional ones",
    "main_loss": "cross-entropy after the last block alone, which compares with that of BEiT",
    "branch_loss": "cross-entropy after the additional blocks alone",
    "branch_acc": "accuracy of the tokens predicted after the additional blocks",
}
CAPTIONS = {
    "original": "held-out images",
    "masked": "what BEiT sees",
    "prediction": "the tokens that BEiT predicts for the masked patches, decoded together with the visible ones",
    "recovered": "the tokens that BEiT predicts for all patches, decoded",
    "tokenizer": "the true tokens, decoded: the best that the row above could be",
}
MASKED_ACCURACY = Headline("mlm_acc", "masked-token accuracy, %", 100)


def pretrain_report(on_all: bool, aggregates: bool) -> Report:
    """The report of the pre-training on tokens.

    Args:
      on_all: whether the loss counts all patches, and not only the masked ones.
      aggregates: whether the model predicts twice, as that of BEiT v2.
    """
    metrics = METRICS | OF_BOTH if aggregates else METRICS
    unit = ", sum of two predictions" if aggregates else ""
    if not on_all:
        curves = (
            Curve("loss", "eval/loss", f"nats per masked token{unit}"),
            Curve("mlm_acc", "eval/mlm_acc", "masked-token accuracy"),
        )
        return Report("pretrain", curves, (MASKED_ACCURACY,), metrics, CAPTIONS)
    curves = (Curve("loss", "eval/loss", f"nats per token{unit}"), Curve("all_acc", "eval/all_acc", "token accuracy"))
    headlines = (MASKED_ACCURACY, Headline("all_acc", "accuracy of all tokens, %", 100))
    return Report("pretrain, all tokens", curves, headlines, metrics, CAPTIONS)


def hide_patches(images: jax.Array, mask: jax.Array) -> jax.Array:
    """Pictures `[b, h, w, c]` without the patches that `mask` bool `[b, g, g]` hides.

    These are grey; where `shown_bands.to_rgb` will stretch the contrast, they are `HIDDEN`, which it turns into grey.
    """
    side = images.shape[1] // mask.shape[1]
    hidden = repeat(mask, "b h w -> b (h i) (w j) 1", i=side, j=side)
    return jnp.where(hidden, HIDDEN if is_stretched(images.shape[-1]) else GREY, images)
