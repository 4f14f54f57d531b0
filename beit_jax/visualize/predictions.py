"""What a pre-trained model puts in the masked places of one image."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from beit_jax import tasks
from beit_jax.convert.pretrained import Pretrained
from beit_jax.data.block_mask_numpy import block_mask
from beit_jax.errors import UserError
from beit_jax.models import dvae
from beit_jax.tasks import pretrain
from beit_jax.visualize import images

CONTEXT = 2  # tokens on each side of a position that are shown with it


class Predictions(NamedTuple):
    """Of one image with a grid of g x g patches.

    Attributes:
      tokens: the true ones, int32 `[g, g]`.
      logits: float32 `[g, g, v]`, of all positions.
      guesses: the likeliest tokens, int32 `[g, g]`.
      pictures: the task's, float32 `[H, W, 3]` in [0, 1]: `original`, `masked`, `tokenizer` and `prediction`.
    """

    tokens: np.ndarray
    logits: np.ndarray
    guesses: np.ndarray
    pictures: dict[str, np.ndarray]


def mask_of(config: ConfigDict, masked: int | None, seed: int) -> np.ndarray:
    """A blockwise mask, bool `[g, g]`, of at most so many patches (None: those of the pre-training).

    Blocks are at least as large, in proportion, as the official 16 patches of 196.

    Raises:
      UserError: there are not so many patches.
    """
    side = pretrain.grid(config)
    count = config.num_masked if masked is None else masked
    if not 0 < count < side * side:
        raise UserError(f"--masked={count}; expected 1 to {side * side - 1}, of {side * side} patches")
    uniform = np.random.default_rng(seed).random
    while True:  # of few patches, a mask may stay empty
        mask = block_mask(uniform, (side, side), count, max(1, min(count, round(16 * side * side / 196))))
        if mask.any():
            return mask


def near_the_middle(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of the masked patch that is nearest to the middle of the image."""
    places = np.argwhere(mask)
    nearest = np.argmin(np.linalg.norm(places - (np.array(mask.shape) - 1) / 2, axis=1))
    return tuple(int(place) for place in places[nearest])


def predict(loaded: Pretrained, tokenizer: Pretrained, picture: Image.Image, mask: np.ndarray) -> Predictions:
    """What the model makes of a picture with a mask.

    Args:
      loaded: the model; its config has the tokenizer's sizes.
      tokenizer: its tokenizer.
      picture: of which both see the largest central square.
      mask: bool `[g, g]`.
    """
    config, frozen = loaded.config, {"tokenizer": tokenizer.params}
    size, tokenizer_size = config.model.image_size, config.tokenizer.image_size
    seen = images.fitted(picture, (size, size), config.preprocess.interpolation).astype(np.float32) / 255
    mean, std = (np.asarray(config.preprocess[key], np.float32) for key in ("mean", "std"))
    view = images.fitted(picture, (tokenizer_size, tokenizer_size), "lanczos")
    pixels = dvae.map_pixels(view[None].astype(np.float32) / 255)
    batch = {"image": ((seen - mean) / std)[None], "tokenizer_image": pixels, "mask": mask[None]}

    @jax.jit
    def compute(params: Any, frozen: Any, batch: Any) -> Any:
        tokens = tokenizer.model.apply(
            {"params": frozen["tokenizer"]}, batch["tokenizer_image"], method=tokenizer.model.tokens
        )
        logits = loaded.model.apply({"params": params}, batch["image"], batch["mask"], None)
        return tokens, logits, tasks.create(config).pictures(params, frozen, batch)

    tokens, logits, pictures = jax.tree.map(lambda leaf: np.asarray(leaf)[0], compute(loaded.params, frozen, batch))
    logits = logits.reshape(*mask.shape, -1)
    return Predictions(tokens, logits, logits.argmax(axis=-1).astype(np.int32), pictures)


def around(
    titled: Sequence[tuple[str, np.ndarray]], grid: tuple[int, int], position: tuple[int, int]
) -> tuple[list[tuple[str, np.ndarray]], int, list[list[tuple[float, float, float, float, str]]]]:
    """The surroundings of a position in each picture, how many in a row, and the outline of the position in each.

    Args:
      titled: titles and uint8 `[H, W, 3]`.
      grid: rows and columns of patches.
      position: row and column.
    """
    shown = [min(2 * CONTEXT + 1, sides) for sides in grid]
    first = [min(max(place - CONTEXT, 0), sides - n) for place, sides, n in zip(position, grid, shown)]
    height, width = (side // patches for side, patches in zip(titled[0][1].shape, grid))
    rows, columns = (slice(start * side, (start + n) * side) for start, side, n in zip(first, (height, width), shown))
    outline = ((position[1] - first[1]) / shown[1], (position[0] - first[0]) / shown[0], 1 / shown[1], 1 / shown[0], "")
    return [(name, image[rows, columns]) for name, image in titled], min(len(titled), 6), [[outline]] * len(titled)
