"""Keys of the task `pretrain_features`: masked image modelling on features, of a teacher or of the model itself."""

from ml_collections import ConfigDict

from beit_jax.config import teacher
from beit_jax.config.encoder import encoder_keys
from beit_jax.config.evals import evals_keys
from beit_jax.config.keys import Key, Keys
from beit_jax.config.pretrain import check_masking, masking_keys
from beit_jax.errors import Mistakes
from beit_jax.models import variants

KEYS: Keys = dict(
    model=encoder_keys("shared"),
    **masking_keys(),
    target=dict(
        source=Key(
            "teacher",
            "whose features are predicted: those of the section teacher, or of the average of the encoder's own past",
            choices=("teacher", "average"),
        ),
        layers=Key(6, "of average: last blocks whose mean is predicted", at_least=1),
        decay=Key(0.9998, "of average: part of it that a step keeps", at_least=0, at_most=1),
        beta=Key(2.0, "difference from which the loss, smooth L1, grows linearly", above=0),
    ),
    teacher=teacher.KEYS,
    evals=evals_keys(),
)


def check(config: ConfigDict) -> None:
    """Checks values that depend on each other.

    Raises:
      UserError: masks do not fit the grid, there are fewer blocks than `target.layers`, or the sizes of a random
        teacher do not fit each other.
    """
    mistakes = Mistakes()
    with mistakes.collected():
        check_masking(config)
    depth = variants.parse(config.model.variant)[0].depth
    if config.target.source == "average" and config.target.layers > depth:
        mistakes.add(f"target.layers={config.target.layers}; expected at most {depth}, the blocks of the encoder")
    if config.target.source == "teacher":
        with mistakes.collected():
            teacher.check_random(config.teacher)
    elif config.teacher.path != "random":
        mistakes.add(
            f"teacher.path={config.teacher.path} is not used with target.source=average; give teacher=RUN to "
            "configs/pretrain_features.py, or leave it out"
        )
    mistakes.raise_all()
