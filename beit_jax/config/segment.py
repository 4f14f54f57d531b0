"""Keys of the task `segment`: semantic segmentation (official `semantic_segmentation`)."""

from ml_collections import ConfigDict

from beit_jax.config.classify import LABELS
from beit_jax.config.encoder import encoder_keys, patch_grid
from beit_jax.config.keys import LARGEST_SIDE, Key, Keys
from beit_jax.config.shared import init_optional
from beit_jax.errors import Mistakes, UserError
from beit_jax.models import variants
from beit_jax.models.image_size import in_words

OPTIONAL = (r"^(decode_head|auxiliary_head(_\d+)?|pyramid)/",)
KEYS: Keys = dict(
    init_optional=init_optional(OPTIONAL),
    optimizer=dict(
        weight_decay=Key(0.05, "decay of kernels, tables, class token and positions", at_least=0),
    ),
    model=dict(
        **encoder_keys("per_block", image_size=512),
        num_classes=Key(0, "number of classes; 0: as many as the data set has, where it tells", at_least=0),
        head=Key("upernet", "what classifies the pixels", choices=("upernet", "setr_pup")),
        channels=Key(768, "width of the head", at_least=1),
        layers=Key((3, 5, 7, 11), "blocks, counted from 0, under UPerNet's pyramid or SETR-PUP's auxiliary heads"),
        auxiliary_channels=Key(256, "width of UPerNet's auxiliary head", at_least=1),
    ),
    labels=LABELS,
    inference=dict(
        stride=Key(0, "pixels from one window to the next; 0: two thirds of model.image_size", at_least=0),
        ratios=Key((1.0,), "scales at which images are seen"),
        flip=Key(False, "whether images are seen mirrored too"),
        clamp_to_crop=Key(False, "whether scales below the window are raised to it, as in the released code"),
        short_side=Key(
            0,
            "largest shorter side of images in the evaluation; 0: model.image_size",
            at_least=0,
            at_most=LARGEST_SIDE,
        ),
        long_side=Key(
            0,
            "largest longer side of images in the evaluation; 0: four times the shorter one",
            at_least=0,
            at_most=LARGEST_SIDE,
        ),
        label_side=Key(2048, "side of the canvas of label maps", at_least=1, at_most=LARGEST_SIDE),
    ),
)


def canvas(config: ConfigDict) -> tuple[int, int]:
    """Height and width of the canvas of images in the evaluation: bounds on their shorter and on their longer sides."""
    short = config.inference.short_side or config.model.image_size
    return short, config.inference.long_side or 4 * short


def check(config: ConfigDict) -> None:
    """
    Raises:
      UserError: the head does not fit the encoder, or windows leave pixels out.
    """
    model, inference, mistakes = config.model, config.inference, Mistakes()
    if not isinstance(model.image_size, int):
        raise UserError(
            f"model.image_size={in_words(model.image_size)}: segmentation sees windows, which are squares; expected "
            "one number of pixels (the images themselves may have any shape)"
        )
    with mistakes.collected():
        _check_head(model)
    if inference.stride > model.image_size:
        mistakes.add(
            f"inference.stride={inference.stride} leaves pixels between windows of model.image_size={model.image_size}"
        )
    short, long = canvas(config)
    if short > long:
        mistakes.add(f"inference.long_side={long} is smaller than the shorter side, which is up to {short} pixels")
    if not inference.ratios or not all(type(ratio) in (int, float) and ratio > 0 for ratio in inference.ratios):
        mistakes.add(f"inference.ratios={inference.ratios!r}; expected numbers above 0, such as (0.75, 1.0)")
    elif max(inference.ratios) * long > LARGEST_SIDE:
        mistakes.add(
            f"inference.ratios={inference.ratios!r} enlarge images to {max(inference.ratios) * long:.0f} pixels; "
            f"expected at most {LARGEST_SIDE}"
        )
    mistakes.raise_all()


def _check_head(model: ConfigDict) -> None:
    grid, (variant, patch) = patch_grid(model)[0], variants.parse(model.variant)
    missing = [layer for layer in model.layers if type(layer) is not int or not 0 <= layer < variant.depth]
    if missing:
        raise UserError(
            f"model.layers={model.layers!r} has {missing[0]!r}; expected blocks 0 to {variant.depth - 1} of "
            f"{model.variant}"
        )
    if model.head == "upernet" and (len(model.layers) != 4 or grid % 2):
        raise UserError(
            f"upernet makes its pyramid of four layers and an even grid of patches; found model.layers="
            f"{model.layers!r} and {grid}x{grid} patches"
        )
    if model.head == "setr_pup" and (patch < 2 or patch & (patch - 1)):
        raise UserError(
            f"setr_pup doubles the resolution up to the image's; found patches of {patch}, expected 2, 4, 8, ..."
        )
