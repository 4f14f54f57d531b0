"""Keys of the vision transformer, for the tasks that have one."""

from ml_collections import ConfigDict

from beit_jax.config.keys import LARGEST_SIDE, Key, Keys
from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.models.image_size import ImageSize, area, grid_of, in_words, sides

DTYPES = ("auto", "float32", "bfloat16")
UNROLL = Key(
    0,
    "blocks in one iteration of the compiled loop over blocks; 0: one on CPU, all on accelerators",
    at_least=0,
    resumable=True,
)


def encoder_keys(relative_position: str, image_size: int = 224) -> Keys:
    """The section `model` of a task with an encoder.

    Examples:
      >>> from beit_jax.config.encoder import encoder_keys
      >>> keys = encoder_keys("shared", image_size=64)
      >>> keys["relative_position"].default, keys["image_size"].default
      ('shared', 64)
    """
    return dict(
        variant=Key("B/16", "SIZE/PATCH, such as B/16, or WIDTHxDEPTHxHEADS/PATCH"),
        image_size=image_size_key(image_size),
        absolute_positions=Key(False, "whether tokens have a learned embedding of their positions"),
        relative_position=Key(
            relative_position, "bias of attention by relative position", choices=("none", "shared", "per_block")
        ),
        layer_scale=Key(0.1, "initial LayerScale; 0: none", at_least=0),
        drop_path=Key(0.1, "rate of stochastic depth in the last block", at_least=0, below=1),
        norm_eps=Key(
            1e-6,
            "epsilon of the layer norms; checkpoints of Hugging Face need 1e-12",
            at_least=variants.SMALLEST_EPSILON,
        ),
        dtype=Key(
            "auto",
            "of matrix products, also in a frozen tokenizer; auto: bfloat16 on accelerators, float32 on CPU",
            choices=DTYPES,
        ),
        remat=Key(
            "auto",
            "what the backward pass recomputes; auto: nothing on accelerators, elementwise results on CPU",
            choices=("auto", "none", "full", *variants.REMAT_POLICIES),
        ),
        unroll=UNROLL,
        attention=Key(
            "auto",
            "what computes attention: plain JAX, a kernel for TPUs (pallas), or cudnn; auto: by the device",
            choices=("auto", *variants.ATTENTIONS),
            resumable=True,
        ),
    )


def image_size_key(default: int, help: str = "side of the images in pixels, or HEIGHTxWIDTH") -> Key:
    """The key of a size of images: one number, or a pair (height, width)."""
    return Key(default, help, at_least=1, at_most=LARGEST_SIDE, is_size=True)


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """Height, width and channels of the images that the model of a config sees."""
    return (*sides(config.model.image_size), config.data.channels)


def patch_grid(model: ConfigDict) -> tuple[int, int]:
    """Rows and columns of patches in the images of a section `model`.

    Raises:
      UserError: the patch size does not divide the image size, or the variant is unknown.
    """
    _, patch = variants.parse(model.variant)
    check_divisible("model.image_size", model.image_size, patch, f"the patch size {patch} of {model.variant}")
    return grid_of(model.image_size, patch)


def count_patches(model: ConfigDict) -> int:
    """Patches of an image of a section `model`; raises UserError as `patch_grid`."""
    return area(patch_grid(model))


def check_divisible(name: str, size: ImageSize, stride: int, what: str) -> None:
    """Raises UserError unless `stride`, which is called `what`, divides both sides of a size."""
    if any(side % stride for side in sides(size)):
        several = "a multiple" if isinstance(size, int) else "multiples"
        raise UserError(f"{name}={in_words(size)} is not divisible by {what}; choose {several} of {stride}")
