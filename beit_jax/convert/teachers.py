"""Loads teachers from checkpoints of any library, and saves them as runs, which the training of a tokenizer reads."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.config import statistics
from beit_jax.config import teacher as keys
from beit_jax.convert import files, locate, safetensors_file, settings_limits, state_dicts, teacher_names
from beit_jax.convert.pretrained import from_pretrained
from beit_jax.convert.teacher_settings import read_settings
from beit_jax.errors import UserError
from beit_jax.experiment_teacher import TASK, of_run, read_run
from beit_jax.models import variants
from beit_jax.models.teacher import Teacher
from beit_jax.runtime.atomic_write import atomic_write
from beit_jax.runtime.checkpoint_folder import find_checkpoint, holds_checkpoint
from beit_jax.runtime.paths import as_path
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks.teachers import create_teacher
from beit_jax.training import checkpoint
from beit_jax.training.params import flatten, merge, unflatten
from beit_jax.typing import Params

# Heads of 64 numbers, in these widths. Others, such as those of ViT-H, have heads of other sizes.
USUAL_WIDTHS = (192, 384, 512, 768, 1024)


def load_teacher(
    path: str | Path,
    kind: str | None = None,
    *,
    heads: int | None = None,
    dtype: jnp.dtype = jnp.float32,
    **settings: Any,
) -> tuple[Teacher, Params]:
    """A teacher with its weights, float32 NumPy arrays.

    Args:
      path: a file, a folder or a hub id: of OpenAI's CLIP (a state dict), open_clip, transformers, timm or DINO; a run
        or checkpoint of this library; or "random". Nothing in a file is executed.
      kind: "clip", "dino", or "encoder": of a run, or of what `from_pretrained` takes; None: what a run holds, and
        "clip" of another file.
      heads: attention heads, for weights that do not state them.
      dtype: of the matrix products.
      settings: other keys of `config.teacher`; those that follow from the weights need not be given.

    Raises:
      UserError: there are no such weights, they are damaged or not of this kind, or a setting contradicts them.

    Examples:
      >>> from beit_jax.convert.teachers import load_teacher
      >>> teacher, params = load_teacher("runs/pretrain")
      >>> jax.jit(teacher.features)(params, jnp.zeros((2, 16, 16, 3))).shape
      (2, 16, 32)
    """
    section = keys.section(**({"kind": kind} if kind else {}), path=str(path), **settings)
    if section.path == "random":
        keys.check(section)
        teacher = create_teacher(section, dtype)
        return teacher, jax.tree.map(np.asarray, run_once(teacher.init, jax.random.key(0)))
    found = locate.local_path(section.path)
    is_run = found.is_dir() and holds_checkpoint(found)
    if section.kind != "encoder" and not is_run:
        with locate.named(found, section.path):
            section, params = _load_foreign(section, found, heads)
        return create_teacher(section, dtype), params
    if is_run:
        run = find_checkpoint(section.path)
        section = read_run(section, run, section.path)
        if kind not in (None, section.kind):
            raise UserError(f"{path} is no {kind}, but a run that teacher.kind={section.kind} takes as it is")
        single = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        params = jax.tree.map(np.asarray, checkpoint.load_params(run, single))
    else:
        with locate.named(found, section.path):
            _, params, config = from_pretrained(found, heads=heads)
        pixels = statistics.as_text((tuple(config.preprocess.mean), tuple(config.preprocess.std)))
        section = of_run(section, config, section.path, flatten(params), pixels)
    teacher = create_teacher(section, dtype)
    return teacher, merge(_shapes(teacher), params, ignored=teacher.ignored)


def save_teacher(folder: str | Path, teacher: Teacher, params: Params) -> None:
    """Writes a teacher as a run, for `teacher.path` of a config.

    Args:
      folder: must not exist; it appears when it is complete.
      teacher: what `load_teacher` returns.
      params: of the teacher.

    Raises:
      UserError: the folder exists.
    """
    target = as_path(folder)
    locate.check_target(target, "beit_jax")
    config = configs.to_json(ConfigDict({"task": TASK, "teacher": teacher.section}))
    with atomic_write(target) as part:
        part.mkdir()
        checkpoint.save_params(part, merge(_shapes(teacher), params), config)


def _shapes(teacher: Teacher) -> Params:
    return jax.eval_shape(teacher.init, jax.random.key(0))


def _load_foreign(section: ConfigDict, path: Path, heads: int | None) -> tuple[ConfigDict, Params]:
    """The section and the parameters of a file of another library."""
    file = locate.weights_file(path) if path.is_dir() else path
    state = _read(file)
    _check_is_no_beit(state, section.kind, file)
    return (_load_clip if section.kind == "clip" else _load_dino)(section, state, file, heads)


def _read(file: Path) -> dict[str, np.ndarray]:
    if file.suffix == ".safetensors":
        tensors = state_dicts.named_as_published(safetensors_file.read_tensors(file), file).tensors
    else:
        tensors = state_dicts.read_torch(file).tensors
    named = {name: value for name, value in tensors.items() if not teacher_names.BUFFERS.search(name)}
    state = files.weights(named, file)
    settings_limits.check_settings({}, {}, {name: value.shape for name, value in state.items()}, str(file))
    return state


def _check_is_no_beit(state: dict[str, np.ndarray], kind: str, file: Path) -> None:
    beit = ("q_bias", "lambda_1", "gamma_1", "relative_position_bias_table", "mask_token")
    if named := sorted(name for name in state if name.endswith(beit)):
        raise UserError(
            f"{file} is no {kind}: it holds {named[0]}, which networks of BEiT have; teacher.kind=encoder takes those"
        )


def _load_clip(
    section: ConfigDict, state: dict[str, np.ndarray], file: Path, heads: int | None
) -> tuple[ConfigDict, Params]:
    if section.projection == 0:
        state = {name: value for name, value in state.items() if name not in teacher_names.PROJECTIONS}
    tower = teacher_names.find_tower(state, str(file))
    projection, where = tower.shape("head.weight"), str(file)
    if section.projection and len(projection) != 2:
        raise UserError(
            f"{where} has no projection ({tower.spelled('head.weight')[0]}); expected the one into the space of texts, "
            "or teacher.projection=0 for the features before it"
        )
    shapes = [tower.shape(name) for name in ("patch_embed.proj.weight", "pos_embed")]
    sizes, said = _sizes(section.kind, *shapes, tower.depth(), file, heads)
    if section.projection:
        sizes["projection"] = projection[1 if tower.library == "openai" else 0]
    filled = keys.take_from_weights(section, sizes | said, where)
    if filled.gelu == "auto":
        raise UserError(
            f"{where} does not state the GELU of its MLPs, and no config.json beside it does; give teacher.gelu=quick "
            "for OpenAI's weights, and those of open_clip with quickgelu in their name; teacher.gelu=exact for others"
        )
    shapes = flatten(_shapes(create_teacher(filled)))
    return filled, unflatten(teacher_names.clip_params(tower, shapes, where))


def _load_dino(
    section: ConfigDict, state: dict[str, np.ndarray], file: Path, heads: int | None
) -> tuple[ConfigDict, Params]:
    layout = "hf" if "beit.embeddings.cls_token" in state else "unilm"  # `state_dicts` puts this prefix
    embeddings = "beit.embeddings.patch_embeddings.projection.weight", "beit.embeddings.position_embeddings"
    patch, positions = embeddings if layout == "hf" else ("patch_embed.proj.weight", "pos_embed")
    blocks = "beit.encoder.layer." if layout == "hf" else "blocks."
    numbers = {name.removeprefix(blocks).partition(".")[0] for name in state if name.startswith(blocks)}
    shapes = [state[name].shape if name in state else () for name in (patch, positions)]
    sizes, said = _sizes(section.kind, *shapes, len(numbers), file, heads)
    filled = keys.take_from_weights(section, sizes | said, str(file))
    expected = flatten(_shapes(create_teacher(filled)))
    return filled, unflatten(teacher_names.dino_params(state, expected, layout, str(file)))


def _sizes(
    kind: str, patches: tuple[int, ...], positions: tuple[int, ...], depth: int, file: Path, heads: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the shapes of tensors say, and what settings beside them say: values of keys of the section.

    Args:
      kind: of teacher.
      patches: shape of the projection of patches, `[d, 3, p, p]`.
      positions: shape of the embedding of positions, `[.., n, d]`.
      depth: number of blocks.
      file: of the weights.
      heads: given by the user.

    Raises:
      UserError: they are not those of a ViT for square images, or do not tell the number of heads.
    """
    side = math.isqrt(max(positions[-2] - 1, 0)) if len(positions) in (2, 3) else 0
    if len(patches) != 4 or not depth or not side or side**2 != positions[-2] - 1:
        raise UserError(
            f"{file} has patches of the shape {patches}, positions of the shape {positions} and {depth} blocks; "
            f"expected a complete ViT for square images as of {kind}"
        )
    width, patch = patches[0], patches[-1]
    said, stated = read_settings(file, kind, width)
    if heads and stated and heads != stated:
        raise UserError(f"{file} has {stated} attention heads by the settings beside it, and heads={heads} is given")
    found = heads or stated or (width // 64 if width in USUAL_WIDTHS else 0)
    if not found:
        raise UserError(
            f"{file} does not state its number of attention heads, and its width {width} is not one of "
            f"{', '.join(map(str, USUAL_WIDTHS))}; give it: load_teacher(..., heads=N), or python -m beit_jax.convert "
            f"SRC DST --to beit_jax --teacher {kind} --heads N"
        )
    if found < 1 or width % found:
        raise UserError(f"{file} has the width {width}, which {found} attention heads do not divide")
    variant = variants.name_of(variants.Variant(width, depth, found), patch)
    return dict(variant=variant, image_size=side * patch), said
