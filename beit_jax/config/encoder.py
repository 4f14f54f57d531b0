"""Keys of the vision transformer, and of nearest neighbours on its features, for the tasks that have them."""

from ml_collections import ConfigDict

from beit_jax.config.keys import LARGEST_SIDE, Key, Keys
from beit_jax.errors import UserError
from beit_jax.models import variants

DTYPES = ("auto", "float32", "bfloat16")
UNROLL = Key(
    0,
    "blocks in one iteration of the compiled loop over blocks; 0: one on CPU, all on accelerators",
    at_least=0,
    resumable=True,
)


def encoder_keys(relative_position: str, image_size: int = 224) -> Keys:
    """The section `model` of a task with an encoder."""
    return dict(
        variant=Key("B/16", "SIZE/PATCH, such as B/16, or WIDTHxDEPTHxHEADS/PATCH"),
        image_size=Key(image_size, "side of the images in pixels", at_least=1, at_most=LARGEST_SIDE),
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


def knn_keys() -> Keys:
    """The section `knn`: classification by nearest neighbours at each evaluation; the training images vote."""
    return dict(
        k=Key(0, "neighbours that vote; 0: no such evaluation", at_least=0),
        ops=Key("", "operations that make image and label of both splits; empty: data.eval_ops"),
    )


def grid_side(model: ConfigDict) -> int:
    """Patches along a side of the images of a section `model`.

    Raises:
      UserError: the patch size does not divide the image size, or the variant is unknown.
    """
    _, patch = variants.parse(model.variant)
    if model.image_size % patch:
        raise UserError(
            f"model.image_size={model.image_size} is not divisible by the patch size {patch} of {model.variant}; "
            f"choose a multiple of {patch}"
        )
    return model.image_size // patch
