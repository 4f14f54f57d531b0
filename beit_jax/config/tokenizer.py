"""Keys of the task `tokenizer`; those of the network and of the loss are declared by the kind of tokenizer."""

from ml_collections import ConfigDict

from beit_jax.config import tokenizer_kinds
from beit_jax.config.encoder import check_divisible, image_size_key
from beit_jax.config.keys import Key, Keys


def keys(kind: str) -> Keys:
    """The keys beside the shared ones.

    Raises:
      UserError: the kind is unknown.
    """
    declared = tokenizer_kinds.KINDS.find(kind)
    return dict(
        model=dict(kind=Key(kind, "kind of tokenizer"), image_size=image_size_key(256), **declared.keys),
        loss=dict(declared.loss_keys),
        eval_classes=Key(
            0, "classes of the labels of evaluation images, with which tokens are compared (TCAS); 0: none", at_least=0
        ),
        **declared.sections,
    )


def check(config: ConfigDict) -> None:
    """
    Raises:
      UserError: tokens do not cover the image, or what the kind of tokenizer refuses.
    """
    stride = tokenizer_kinds.stride(config.model)
    check_divisible("model.image_size", config.model.image_size, stride, f"the {stride} pixels that a token covers")
    tokenizer_kinds.KINDS.find(config.model.kind).check(config)
