"""What a pre-trained model predicts for the masked patches of one image."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from beit_jax.config.op_arguments import tokenizer_method
from beit_jax.config.pretrain import largest_mask
from beit_jax.data.block_mask_numpy import block_mask
from beit_jax.errors import UserError
from beit_jax.models.image_size import sides
from beit_jax.tasks.pretrain import Pretrain
from beit_jax.visualize import images
from beit_jax.visualize.figures import Square
from beit_jax.visualize.loading import LoadedPretraining

CONTEXT = 2  # tokens on each side of a position that are shown with it


class Predictions(NamedTuple):
    """Of one image with a grid of gh x gw patches.

    Attributes:
      tokens: the true ones, int32 `[g, g]`.
      logits: float32 `[g, g, v]`, of all positions.
      predicted: the most likely tokens, int32 `[g, g]`.
      pictures: the task's, float32 `[H, W, 3]` in [0, 1]: `original`, `masked`, `tokenizer` and `prediction`.
    """

    tokens: np.ndarray
    logits: np.ndarray
    predicted: np.ndarray
    pictures: dict[str, np.ndarray]


def draw_mask(task: Pretrain, masked: int | None, seed: int) -> np.ndarray:
    """A blockwise mask, bool `[g, g]`, of at most so many patches (None: those of the pre-training).

    Blocks are at least as large, in proportion, as the official 16 patches of 196.

    Raises:
      UserError: there are not so many patches.
    """
    grid = task.grid
    count = largest_mask(task.config) if masked is None else masked
    if not 0 < count <= grid[0] * grid[1]:
        raise UserError(f"--masked={count}; expected 1 to the {grid[0] * grid[1]} patches")
    uniform = np.random.default_rng(seed).random
    return block_mask(uniform, grid, count, max(1, min(count, round(16 * grid[0] * grid[1] / 196))))


def central_masked_patch(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of the masked patch that is nearest to the middle of the image."""
    patches = np.argwhere(mask)
    nearest = np.argmin(np.linalg.norm(patches - (np.array(mask.shape) - 1) / 2, axis=1))
    return tuple(int(index) for index in patches[nearest])


def predict(loaded: LoadedPretraining, picture: Image.Image, mask: np.ndarray) -> Predictions:
    """What the model predicts of a picture with a mask.

    Args:
      loaded: the model and its tokenizer.
      picture: of which both see the largest central square.
      mask: bool `[g, g]`.
    """
    task, preprocess = loaded.task, loaded.preprocess
    tokenizer, sizes = task.tokenizer, (sides(task.config.model.image_size), sides(task.tokenizer.image_size))
    seen = images.crop_and_resize(picture, sizes[0], preprocess.interpolation)
    view = images.crop_and_resize(picture, sizes[1], tokenizer_method(task.config))
    batch = {
        "image": images.normalize(seen, preprocess)[None],
        "tokenizer_image": tokenizer.from_pixels(view[None].astype(np.float32) / 255),
        "mask": mask[None],
    }

    @jax.jit
    def compute(params: Any, frozen: Any, batch: Any) -> Any:
        tokens = tokenizer.targets(frozen["tokenizer"], batch["tokenizer_image"])
        logits = task.model.apply({"params": params}, batch["image"], batch["mask"], None)
        return tokens, logits, task.pictures(params, frozen, batch)

    outputs = compute(loaded.params, loaded.frozen, batch)
    tokens, logits, pictures = jax.tree.map(lambda leaf: np.asarray(leaf)[0], outputs)
    logits = logits.reshape(*mask.shape, -1)
    return Predictions(tokens, logits, logits.argmax(axis=-1).astype(np.int32), pictures)


def crop_around(
    titled: Sequence[tuple[str, np.ndarray]], grid: tuple[int, int], position: tuple[int, int]
) -> tuple[list[tuple[str, np.ndarray]], int, list[list[Square]]]:
    """The surroundings of a position in each picture, how many in a row, and the outline of the position in each.

    Args:
      titled: titles and uint8 `[H, W, 3]`.
      grid: rows and columns of patches.
      position: row and column.
    """
    shown = [min(2 * CONTEXT + 1, patches) for patches in grid]
    first = [min(max(index - CONTEXT, 0), patches - n) for index, patches, n in zip(position, grid, shown)]
    height, width = (pixels // patches for pixels, patches in zip(titled[0][1].shape, grid))
    rows, columns = (slice(start * side, (start + n) * side) for start, side, n in zip(first, (height, width), shown))
    outline = ((position[1] - first[1]) / shown[1], (position[0] - first[0]) / shown[0], 1 / shown[1], 1 / shown[0], "")
    return [(name, image[rows, columns]) for name, image in titled], min(len(titled), 6), [[outline]] * len(titled)
