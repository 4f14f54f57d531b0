"""Floating-point operations of a training step, counted from the sizes in a config.

Only products are counted, a multiplication and an addition for each pair of factors. A backward pass costs two forward
ones, except that the layer that reads the images needs no gradient of its input. What is computed again to save memory
does not count, and what runs faster by leaving something out counts in full: the figures belong to the model.
"""

from ml_collections import ConfigDict

from beit_jax.models import variants


def training(config: ConfigDict, tokens_given: bool = False) -> int | None:
    """FLOPs of a training step per image; None for segmentation, whose heads are not counted.

    Args:
      config: of the run, with its number of classes.
      tokens_given: whether pre-training finds the tokens in its batches.
    """
    model = config.model
    if config.task == "segment":
        return None
    if config.task == "tokenizer":
        first = 2 * model.image_size**2 * 7 * 7 * 3 * model.hidden
        return 3 * (dvae_encoder(model) + dvae_decoder(model)) - first
    (variant, patch), head = variants.parse(model.variant), 0
    patches = (model.image_size // patch) ** 2
    embedding = 2 * patches * 3 * patch**2 * variant.width
    stack = blocks(variant, patches + 1)
    if config.task == "probe":
        width = variant.width * (2 if config.features == "cls_mean" else 1)
        head = 2 * 2 * (len(config.layers) or variant.depth) * width * model.num_classes
        return head + (0 if config.cache_features else embedding + stack)
    if config.task == "pretrain":
        values = 3 * patch**2 if config.target == "pixels" else config.tokenizer.vocab
        head = 2 * config.num_masked * variant.width * values
    else:
        head = 2 * variant.width * model.num_classes
    tokenizes = config.task == "pretrain" and config.target == "tokens" and not tokens_given
    return 3 * (stack + head) + 2 * embedding + (dvae_encoder(config.tokenizer) if tokenizes else 0)


def blocks(variant: variants.Variant, tokens: int) -> int:
    """Forward FLOPs of the transformer blocks: projections and MLPs 12 n d^2, attention 2 n^2 d, each a product."""
    width = variant.width
    return 2 * variant.depth * (12 * tokens * width**2 + 2 * tokens**2 * width)


def dvae_encoder(dvae: ConfigDict) -> int:
    """Forward FLOPs of the tokenizer's encoder, from a config section of its sizes."""
    side, inputs = dvae.image_size, dvae.hidden
    products = side**2 * 7 * 7 * 3 * dvae.hidden
    for group in range(dvae.groups):
        width, pixels = dvae.hidden * 2**group, (side // 2**group) ** 2
        for _ in range(dvae.blocks_per_group):
            products += pixels * _block(inputs, width, (9, 9, 9, 1))
            inputs = width
    return 2 * (products + pixels * inputs * dvae.vocab)


def dvae_decoder(dvae: ConfigDict) -> int:
    """Forward FLOPs of the decoder, of codes that are not one-hot."""
    grid, inputs = dvae.image_size // 2 ** (dvae.groups - 1), dvae.decoder_init
    products = grid**2 * dvae.vocab * inputs
    for group in range(dvae.groups):
        width, pixels = dvae.hidden * 2 ** (dvae.groups - 1 - group), (grid * 2**group) ** 2
        for _ in range(dvae.blocks_per_group):
            products += pixels * _block(inputs, width, (1, 9, 9, 9))
            inputs = width
    return 2 * (products + pixels * inputs * 6)


def _block(inputs: int, width: int, taps: tuple[int, int, int, int]) -> int:
    """Products per pixel of a residual block: four convolutions of so many taps, and 1x1 where the width changes."""
    hidden = width // 4
    path = zip(taps, (inputs, hidden, hidden, hidden), (hidden, hidden, hidden, width), strict=True)
    return sum(tap * before * after for tap, before, after in path) + (inputs * width if inputs != width else 0)
