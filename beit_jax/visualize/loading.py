"""Networks out of any checkpoint, for looking at them."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from beit_jax import cli, tasks
from beit_jax.convert.pretrained import Pretrained, from_pretrained
from beit_jax.errors import UserError
from beit_jax.models import vit
from beit_jax.tasks import pretrain
from beit_jax.training import checkpoint, initialize
from beit_jax.training.interpolate_positions import interpolate_positions
from beit_jax.training.sharding import AXES, make_mesh

Params = dict[str, Any]
DVAE_SIZES = ("image_size", "vocab", "hidden", "groups", "blocks_per_group", "decoder_init")


class LoadedEncoder(NamedTuple):
    """An encoder, its parameters, and the config of what it was loaded with."""

    encoder: vit.Encoder
    params: Params
    config: ConfigDict


def encoder(name: str, size: tuple[int, int] | None = None) -> LoadedEncoder:
    """The encoder of a checkpoint of any task; that of a probe is the one it reads.

    Args:
      name: a run, one of its checkpoints, a file, a folder or a hub id, as `from_pretrained` reads them.
      size: height and width of the images it is to see, to which positions are resized; None: its own.

    Raises:
      UserError: there is no encoder, or the size does not fit its patches.
    """
    model, params, config = _load("checkpoint", name)
    if config.task == "tokenizer":
        raise UserError(f"{name} is a tokenizer, which has no attention; expected a model with an encoder")
    if config.task == "probe":
        network, own = model, _frozen(name, config)["encoder"]["encoder"]
    else:
        network, own = model.encoder, params["encoder"]
    side, patch = config.model.image_size, network.patch_size
    size = size or (side, side)
    if size[0] % patch or size[1] % patch:
        raise UserError(f"--size={size[0]}x{size[1]}: expected multiples of the patch size {patch}")
    image = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    grid = (size[0] // patch, size[1] // patch)
    resized = interpolate_positions({"encoder": own}, {"encoder": shapes}, grid=grid)
    return LoadedEncoder(network, resized["encoder"], config)


def tokenizer(name: str, flag: str = "checkpoint") -> Pretrained:
    """A tokenizer: itself, or the one that a pre-training reads.

    Args:
      name: as in `encoder`.
      flag: that gave the name, for messages.

    Raises:
      UserError: it is something else.
    """
    loaded = _load(flag, name)
    if loaded.config.task == "tokenizer":
        return loaded
    if loaded.config.task != "pretrain":
        raise UserError(f"--{flag}={name} is a model of the task {loaded.config.task!r}; expected a tokenizer")
    return _tokenizer_read_by(name, loaded.config, f"give that itself as --{flag}")


def masked_model(name: str, tokenizer_name: str) -> tuple[Pretrained, Pretrained]:
    """A pre-trained model, and its tokenizer, whose sizes then stand in the model's config.

    Args:
      name: of the model, as in `encoder`.
      tokenizer_name: of the tokenizer; empty: the one that the run was made with.

    Raises:
      UserError: it is no pre-trained model, or the tokenizer does not fit it.
    """
    loaded = _load("checkpoint", name)
    config = loaded.config
    if config.task != "pretrain":
        raise UserError(f"{name} is a model of the task {config.task!r}; expected a pre-trained one, which has tokens")
    pretrain.check_masked_tokens(config)
    found = (
        tokenizer(tokenizer_name, "tokenizer")
        if tokenizer_name
        else _tokenizer_read_by(name, config, "give it: --tokenizer=NAME")
    )
    sizes = {key: found.config.model[key] for key in DVAE_SIZES}
    if sizes["vocab"] != config.tokenizer.vocab:
        raise UserError(
            f"--tokenizer={tokenizer_name} has {sizes['vocab']} tokens, and {name} predicts {config.tokenizer.vocab}; "
            "expected the tokenizer that it was trained with"
        )
    grid, stride = config.model.image_size // loaded.model.encoder.patch_size, 2 ** (sizes["groups"] - 1)
    config.tokenizer.update(sizes | dict(image_size=grid * stride))  # one token for each patch
    return loaded, found


def _load(flag: str, name: str) -> Pretrained:
    cli.local_folder(flag, name)
    return from_pretrained(name)


def _tokenizer_read_by(name: str, config: ConfigDict, advice: str) -> Pretrained:
    if config.get("target", "tokens") != "tokens":
        raise UserError(f"{name} was trained to predict {config.target}, and has no tokenizer; {advice}")
    if not config.tokenizer.init_from:
        raise UserError(f"{name} does not say which tokenizer it was trained with; {advice}")
    params = _frozen(name, config)["tokenizer"]
    made = ConfigDict(dict(task="tokenizer", model={key: config.tokenizer[key] for key in DVAE_SIZES}))
    return Pretrained(tasks.model(made), params, made)


def _frozen(name: str, config: ConfigDict) -> dict[str, Params]:
    """What a run's task reads and does not learn, by the name of the part."""
    run: Path = checkpoint.find_checkpoint(name).parents[1]
    mesh = make_mesh(dict.fromkeys(AXES, 1), jax.devices()[:1])
    with jax.set_mesh(mesh):
        return jax.tree.map(np.asarray, initialize.load_frozen(config, tasks.create(config), mesh, run))
