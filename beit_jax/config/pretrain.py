"""Keys of the task `pretrain`: masked image modelling on tokens (official `run_beit_pretraining.py`)."""

from ml_collections import ConfigDict

from beit_jax.config import tokenizers
from beit_jax.config.encoder import encoder_keys, grid_side, knn_keys
from beit_jax.config.keys import Key, Keys, a_local_path
from beit_jax.errors import UserError


def keys(kind: str) -> Keys:
    """The keys beside the shared ones, for a kind of tokenizer.

    Raises:
      UserError: the kind is unknown.
    """
    init_from = Key("", "run of the tokenizer task; random: an untrained one, to try the path", check=a_local_path)
    return dict(
        model=encoder_keys("shared"),
        tokenizer=dict(kind=Key(kind, "kind of tokenizer"), init_from=init_from, **tokenizers.find(kind).keys),
        **masking_keys(),
        device_augment=Key(
            "",
            "pixel statistics with which the step itself jitters and normalizes uint8 images; empty: data.ops do",
            choices=("", "imagenet", "inception"),
        ),
        tokens=Key(
            "", "folder of tokenize_dataset; empty: the step computes the tokens", check=a_local_path, resumable=True
        ),
        knn=knn_keys(),
    )


def masking_keys() -> Keys:
    """What all pre-trainings with masked patches share."""
    return dict(
        loss_on=Key("masked", "patches that the loss counts", choices=("masked", "all")),
        num_masked=Key(75, "patches that the head predicts, at least as many as a mask hides", at_least=1),
    )


def tokenizer_image_size(config: ConfigDict) -> int:
    """Side in pixels of the tokenizer's view: one token for each patch."""
    return grid_side(config.model) * tokenizers.stride(config.tokenizer)


def check(config: ConfigDict) -> None:
    """
    Raises:
      UserError: masks do not fit the grid, there is no tokenizer, or stored tokens are of other colours.
    """
    check_masking(config)
    if config.tokens and config.device_augment:
        raise UserError(
            f"tokens={config.tokens} with device_augment={config.device_augment}: the step changes the colours that "
            "stored tokens are of; leave one of them out, such as fast=True of configs/pretrain.py"
        )
    if not config.tokenizer.init_from:
        raise UserError(
            "tokenizer.init_from is empty; pre-training needs a trained tokenizer: give the folder of a tokenizer run "
            "(python -m beit_jax.train --config configs/tokenizer.py --workdir ...)"
        )


def check_masking(config: ConfigDict) -> None:
    """
    Raises:
      UserError: `num_masked` does not fit the grid or `loss_on`.
    """
    patches = grid_side(config.model) ** 2
    if config.num_masked > patches:
        raise UserError(f"num_masked={config.num_masked}; expected between 1 and the {patches} patches")
    if config.loss_on == "all" and config.num_masked != patches:
        raise UserError(
            f"loss_on=all counts all {patches} patches, but num_masked={config.num_masked} lets the head predict "
            f"fewer; set num_masked={patches}"
        )
