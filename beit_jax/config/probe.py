"""Keys of the task `probe`: linear classifiers on a frozen encoder (official `run_linear_eval.py`)."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from beit_jax.config.classify import LABELS, NUM_CLASSES
from beit_jax.config.encoder import encoder_keys, patch_grid
from beit_jax.config.evals import evals_keys
from beit_jax.config.keys import Key, Keys
from beit_jax.errors import Mistakes, UserError
from beit_jax.models import variants

KEYS: Keys = dict(
    model=dict(**encoder_keys("shared"), num_classes=NUM_CLASSES),
    labels=LABELS,
    encoder=dict(init_from=Key("", "run whose encoder is probed; random: an untrained one", is_path=True)),
    layers=Key((), "layers to probe, counted from 1; empty: all"),
    features=Key(
        "cls_mean",
        "class token and mean of the patches side by side, or one of them",
        choices=("cls_mean", "cls", "mean"),
    ),
    cache_features=Key(False, "whether features are computed once; data.ops must not draw random numbers"),
    evals=evals_keys(),
)


def check(config: ConfigDict) -> None:
    """
    Raises:
      UserError: there is no encoder, or it lacks a layer.
    """
    mistakes = Mistakes()
    with mistakes.collected():
        patch_grid(config.model)
        variant, _ = variants.parse(config.model.variant)
        chosen_layers(config.layers, variant.depth)
    if not config.encoder.init_from:
        mistakes.add(
            "encoder.init_from is empty; give the run whose encoder is probed, or random for one that is not trained"
        )
    mistakes.raise_all()


def chosen_layers(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """The layers of an encoder that a config names, counted from 1 as in the paper; none named: all.

    Raises:
      UserError: one that the encoder does not have, or that is named twice.
    """
    missing = [layer for layer in layers if not (isinstance(layer, int) and 1 <= layer <= depth)]
    if missing:
        raise UserError(f"there is no layer {missing[0]!r}: the encoder has the layers 1 to {depth}")
    if len(set(layers)) < len(layers):
        raise UserError(f"layers={tuple(layers)} names a layer twice; expected each one once")
    return tuple(layers) or tuple(range(1, depth + 1))
