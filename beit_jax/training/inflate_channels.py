"""The projection of patches of a checkpoint, for images of another number of channels."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from beit_jax.errors import UserError
from beit_jax.training.params import flatten, unflatten

KERNEL = "encoder/patch_embed/kernel"  # [p, p, c, d]
WAYS = ("", "average")


def inflate_channels(loaded: Mapping[str, Any], target: Mapping[str, Any], way: str) -> dict[str, Any]:
    """Gives the kernel of patches the channels that a model has; passes on everything else.

    With "average", each new channel has the mean of the kernel's own channels, times their number over the new one. An
    image whose channels are all equal then gives what it gave before; for one channel this is the sum, as in timm's
    `adapt_input_conv`.

    Args:
      loaded: parameters from a checkpoint, arrays or shapes, which stay shapes.
      target: parameters or shapes of the model.
      way: "average", or empty: other channels are refused.

    Raises:
      UserError: the channels differ and `way` is empty.
    """
    flat, expected = dict(flatten(loaded)), flatten(target)
    if KERNEL not in flat or KERNEL not in expected:
        return unflatten(flat)
    kernel, channels = flat[KERNEL], expected[KERNEL].shape[2]
    if kernel.shape[2] == channels:
        return unflatten(flat)
    if not way:
        raise UserError(
            f"the checkpoint is for images of {kernel.shape[2]} channels, and these have {channels}: inflate=average "
            "averages its projection of patches (--config.inflate=average, or inflate='average' of from_pretrained)"
        )
    shape = (*kernel.shape[:2], channels, kernel.shape[3])
    if isinstance(kernel, jax.ShapeDtypeStruct):
        flat[KERNEL] = jax.ShapeDtypeStruct(shape, kernel.dtype)
    else:
        total = np.sum(np.asarray(kernel, np.float64), axis=2, keepdims=True)
        flat[KERNEL] = np.broadcast_to(total / channels, shape).astype(kernel.dtype)
    return unflatten(flat)
