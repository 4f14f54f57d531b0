"""The tokens of an image, as numbers: what authors publish, so that everyone can tell whether a tokenizer is theirs."""

import jax
import numpy as np
from PIL import Image

from beit_jax.convert.preprocessing import preprocess
from beit_jax.convert.pretrained import read_pretrained
from beit_jax.errors import UserError
from beit_jax.runtime.paths import local_path
from beit_jax.tasks import create_task


def token_ids(source: str, image: str, heads: int | None = None) -> np.ndarray:
    """The tokens of an image, int32 `[g, g]`, in float32 arithmetic.

    Args:
      source: what `from_pretrained` takes; a tokenizer.
      image: path of a file.
      heads: attention heads, for checkpoints that do not state them.

    Raises:
      UserError: the checkpoint is no tokenizer, or one of both cannot be read.
    """
    params, config = read_pretrained(source, heads)
    if config.task != "tokenizer":
        raise UserError(f"--check: {source} is a model of the task {config.task!r}; expected a tokenizer")
    try:
        with Image.open(local_path(image)) as opened:
            pixels = preprocess([opened], config.preprocess)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--check: the image {image} cannot be read ({reason}); give another one") from error
    tokenizer = create_task(config).tokenizer
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(tokenizer.targets)(params, pixels)[0])
