"""Keys of a section `teacher`: the frozen network whose features a tokenizer learns to reconstruct.

Everything but the kind, the path and the layer is a size or a property of the weights, and is taken from them; set, it
must agree with them. A random teacher has the values of the section.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config import statistics
from beit_jax.config.encoder import check_divisible, image_size_key
from beit_jax.config.keys import Key, Keys, default_values
from beit_jax.errors import Mistakes, UserError, did_you_mean
from beit_jax.models import variants

KINDS = ("clip", "dino", "encoder")

KEYS: Keys = dict(
    kind=Key(
        "clip",
        "clip: a visual tower of CLIP; dino: a ViT of DINO; encoder: of a run; unless set, a run tells",
        choices=KINDS,
    ),
    path=Key("random", "run or converted checkpoint with its weights; random: an untrained teacher", is_path=True),
    layer=Key(0, "of an encoder, counted from 1; 0: the last one and the final norm", at_least=0),
    variant=Key("B/16", "of a random teacher: SIZE/PATCH, such as B/16, or WIDTHxDEPTHxHEADS/PATCH"),
    image_size=image_size_key(224, "of a random teacher: side of its images in pixels, or HEIGHTxWIDTH"),
    projection=Key(512, "of clip: numbers in a feature; 0: features before the projection", at_least=0),
    gelu=Key(
        "auto",
        "of clip: quick, as OpenAI's, or exact, as most of open_clip; auto: as the settings beside the weights say",
        choices=("auto", "quick", "exact"),
    ),
    norm_eps=Key(0.0, "epsilon of the layer norms; 0: 1e-5 of clip, 1e-6 of others", at_least=0),
    statistics=dataclasses.replace(
        statistics.KEY, help="of pixels: imagenet, inception, or mean and deviation; empty: those of the weights"
    ),
    absolute_positions=Key(False, "of a random encoder: whether tokens have a learned embedding of their positions"),
    relative_position=Key(
        "none", "of a random encoder: bias of attention by position", choices=("none", "shared", "per_block")
    ),
    layer_scale=Key(0.0, "of a random encoder: initial LayerScale; 0: none", at_least=0),
)


def section(**settings: Any) -> ConfigDict:
    """A complete section, with these keys set.

    Raises:
      UserError: a key that does not exist, or a value that is not allowed.
    """
    mistakes, made = Mistakes(), default_values(KEYS)
    for name, value in settings.items():
        if name not in KEYS:
            mistakes.add(f"teacher.{name} is unknown; expected one of {', '.join(KEYS)}{did_you_mean(name, KEYS)}")
            continue
        with mistakes.collected():
            KEYS[name].validate(f"teacher.{name}", value)
            made[name] = value
    mistakes.raise_all()
    return made.lock()


def check(section: ConfigDict) -> None:
    """
    Raises:
      UserError: patches do not cover the image, or there is no such layer.
    """
    variant, patch = variants.parse(section.variant)
    check_divisible("teacher.image_size", section.image_size, patch, f"the patch size {patch} of {section.variant}")
    if section.layer and section.kind != "encoder":
        raise UserError(f"teacher.layer={section.layer} is for the kind encoder; leave it out for {section.kind}")
    if section.layer > variant.depth:
        raise UserError(f"teacher.layer={section.layer}; expected at most {variant.depth}, the depth of the encoder")


def check_random(section: ConfigDict) -> None:
    """Checks that there is a teacher, and the sizes of a random one; those of others are in their weights.

    Raises:
      UserError: see `check`; or there is none, as in the config of a published model.
    """
    if not section.path:
        raise UserError("teacher.path is empty; give the run with its weights, or random for one that is not trained")
    if section.path == "random":
        check(section)


def take_from_weights(section: ConfigDict, weights: Mapping[str, Any], source: str) -> ConfigDict:
    """A copy of a section with what the weights say, checked.

    Args:
      section: as the user has set it.
      weights: values of some of the keys.
      source: of the weights, for messages.

    Raises:
      UserError: a key was set to something else, or there is no such layer.
    """
    taken, mistakes = section.copy_and_resolve_references(), Mistakes()
    for name, value in weights.items():
        if name == "projection" and section.projection == 0:
            continue  # the user wants what is before it
        if section[name] not in (value, KEYS[name].default):
            mistakes.add(
                f"teacher.{name}={section[name]!r}, but {source} has {value!r}; leave the key out: a teacher has the "
                "sizes of its weights"
            )
        taken[name] = value
    mistakes.raise_all()
    check(taken)
    return taken
