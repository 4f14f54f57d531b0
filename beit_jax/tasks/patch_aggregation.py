"""BEiT v2's patch aggregation in the pre-training: a second prediction, whose loss is added."""

from ml_collections import ConfigDict

from beit_jax.config.encoder import count_patches
from beit_jax.config.pretrain import num_masked
from beit_jax.models import variants
from beit_jax.models.heads import MaskedImageModel
from beit_jax.models.patch_aggregation import PatchAggregationModel
from beit_jax.tasks.encoder import block_flops
from beit_jax.typing import Metrics


def extended(model: MaskedImageModel, section: ConfigDict) -> MaskedImageModel:
    """The model of a config's `model` section: the one given, that of BEiT v2 if the section names an early layer."""
    if not section.early_layer:
        return model
    settings = {name: section[name] for name in ("early_layer", "head_layers", "shared_head")}
    return PatchAggregationModel(model.encoder, model.vocab, **settings)


def joined(main: Metrics, branch: Metrics) -> Metrics:
    """The metrics of the first prediction, and of the second as `branch_...`; `loss` is the sum of both losses."""
    (loss, count), (more, _) = main["loss"], branch["loss"]
    (accuracy,) = (value for name, value in branch.items() if name.endswith("_acc"))
    both = {"loss": (loss + more, count), "main_loss": main["loss"]}
    return main | both | {"branch_loss": branch["loss"], "branch_acc": accuracy}


def training_flops(config: ConfigDict, outputs: int) -> int:
    """FLOPs of the second prediction, forward and backward, for an image; see `Task.training_flops`.

    Args:
      config: of the pre-training.
      outputs: numbers that the head gives for a patch.
    """
    if not config.model.early_layer:
        return 0
    variant, _ = variants.parse(config.model.variant)
    blocks = block_flops(variant, count_patches(config.model) + 1) * config.model.head_layers // variant.depth
    return 3 * (blocks + 2 * num_masked(config) * variant.width * outputs)
