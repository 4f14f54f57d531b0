"""What trainings have in common whose codes k-means makes of the first batch."""

from ml_collections import ConfigDict

from beit_jax.config import teacher
from beit_jax.errors import Mistakes
from beit_jax.models.image_size import area, grid_of


def check(config: ConfigDict, stride: int) -> None:
    """Checks the training of such a tokenizer.

    Args:
      config: of the training, with the section `teacher` if it has one.
      stride: pixels along the side of a patch.

    Raises:
      UserError: the first batch has fewer patches than there are codes, or the teacher's sizes do not fit each other.
    """
    mistakes = Mistakes()
    with mistakes.collected():
        if "teacher" in config:
            teacher.check_random(config.teacher)
    images, patches = config.batch_size // config.optimizer.accumulate, area(grid_of(config.model.image_size, stride))
    if images * patches < config.model.vocab:
        mistakes.add(
            f"model.vocab={config.model.vocab} codes, which k-means makes of the {images} x {patches} patches of the "
            f"first batch; expected at most {images * patches}: raise batch_size, or lower model.vocab"
        )
    mistakes.raise_all()
