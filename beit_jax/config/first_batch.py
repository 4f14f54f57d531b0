"""Codebooks that k-means makes of the first batch."""

from ml_collections import ConfigDict

from beit_jax.errors import UserError


def check_first_batch(config: ConfigDict, stride: int) -> None:
    """Checks that the first batch has a patch for each code.

    Args:
      config: of the training of such a tokenizer.
      stride: pixels along the side of a patch.

    Raises:
      UserError: it has fewer.
    """
    images, side = config.batch_size // config.optimizer.accumulate, config.model.image_size // stride
    if images * side**2 < config.model.vocab:
        raise UserError(
            f"model.vocab={config.model.vocab} codes, which k-means makes of the {images} x {side**2} patches of the "
            f"first batch; expected at most {images * side**2}: raise batch_size, or lower model.vocab"
        )
