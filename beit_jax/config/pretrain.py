"""Keys of the task `pretrain`: masked image modelling on tokens (official `run_beit_pretraining.py`)."""

from ml_collections import ConfigDict

from beit_jax.config.encoder import count_patches, encoder_keys, patch_grid
from beit_jax.config.evals import evals_keys
from beit_jax.config.keys import Key, Keys
from beit_jax.config.tokenizer_kinds import KINDS, stride
from beit_jax.errors import Mistakes, UserError
from beit_jax.models import variants
from beit_jax.models.image_size import ImageSize, simplest


def keys(kind: str) -> Keys:
    """The keys beside the shared ones, for a kind of tokenizer.

    Raises:
      UserError: the kind is unknown.
    """
    init_from = Key("", "run of the tokenizer task; random: an untrained one, for a test", is_path=True)
    return dict(
        model=encoder_keys("shared") | aggregation_keys(),
        tokenizer=dict(kind=Key(kind, "kind of tokenizer"), init_from=init_from, **KINDS.find(kind).keys),
        **masking_keys(),
        device_augment=Key(False, "whether the training step, and not data.ops, jitters and normalizes uint8 images"),
        tokens=Key(
            "",
            "folder of stored tokens; empty: the step computes them",
            is_path=True,
            resumable=True,
        ),
        evals=evals_keys(),
    )


def aggregation_keys() -> Keys:
    """BEiT v2's patch aggregation."""
    return dict(
        early_layer=Key(0, "block whose patches additional blocks get, as in BEiT v2; 0: no such blocks", at_least=0),
        head_layers=Key(2, "number of these blocks, whose prediction counts in the loss too", at_least=1),
        shared_head=Key(True, "whether both predictions pass the same norm and the same head"),
    )


def masking_keys() -> Keys:
    """What all pre-trainings with masked patches share."""
    return dict(
        loss_on=Key("masked", "patches that the loss counts", choices=("masked", "all")),
        num_masked=Key(
            0,
            "patches that the head predicts, at least those of any mask; 0: 75 of 196, or all with loss_on=all",
            at_least=0,
        ),
    )


def num_masked(config: ConfigDict) -> int:
    """How many patches of each image the head predicts."""
    patches = count_patches(config.model)
    return config.num_masked or (patches if config.loss_on == "all" else _official_masked(patches))


def largest_mask(config: ConfigDict) -> int:
    """How many patches of each image a mask may hide, which is less than `num_masked` if the loss counts all."""
    return num_masked(config) if config.loss_on == "masked" else _official_masked(count_patches(config.model))


def _official_masked(patches: int) -> int:
    return max(1, round(75 * patches / 196))


def smallest_block(config: ConfigDict) -> int:
    """Patches of the smallest block of a mask, in proportion to the official 16 of 196."""
    return max(1, round(16 * count_patches(config.model) / 196))


def tokenizer_image_size(config: ConfigDict) -> ImageSize:
    """Side in pixels of the tokenizer's view, or height and width: one token for each patch."""
    rows, columns = patch_grid(config.model)
    return simplest(rows * stride(config.tokenizer), columns * stride(config.tokenizer))


def check(config: ConfigDict) -> None:
    """Checks values that depend on each other.

    Raises:
      UserError: masks do not fit the grid, `early_layer` is not among the blocks, there is no tokenizer, or `tokens`
        and `device_augment` are both set.
    """
    mistakes = Mistakes()
    with mistakes.collected():
        check_masking(config)
    depth = variants.parse(config.model.variant)[0].depth
    if config.model.early_layer >= depth:
        mistakes.add(
            f"model.early_layer={config.model.early_layer}; expected a block before the last of the {depth} blocks of "
            f"{config.model.variant}, such as {max(depth - 3, 1)}, or 0"
        )
    if config.tokens and config.device_augment:
        mistakes.add(
            f"tokens={config.tokens} with device_augment={config.device_augment}: the step changes the colours that "
            "stored tokens are of; leave one of them out, such as fast=True of configs/pretrain.py"
        )
    if not config.tokenizer.init_from:
        mistakes.add(
            "tokenizer.init_from is empty; pre-training needs a trained tokenizer: give the folder of a tokenizer run "
            "(python -m beit_jax.train --config configs/tokenizer.py --workdir ...)"
        )
    mistakes.raise_all()


def check_masking(config: ConfigDict) -> None:
    """Checks `num_masked` against the grid of patches. `Task.check_batch` compares it with the masks of `data.ops`.

    Raises:
      UserError: `num_masked` does not fit the grid or `loss_on`.
    """
    patches, count = count_patches(config.model), num_masked(config)
    if count > patches:
        raise UserError(f"num_masked={config.num_masked}; expected between 1 and the {patches} patches, or 0")
    if config.loss_on == "all" and count != patches:
        raise UserError(
            f"loss_on=all counts all {patches} patches, but num_masked={config.num_masked} lets the head predict "
            f"fewer; set num_masked=0"
        )
