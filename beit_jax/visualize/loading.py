"""Networks out of any checkpoint, to show what they do."""

from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from beit_jax import cli
from beit_jax import config as configs
from beit_jax.config import tokenizer_kinds
from beit_jax.convert.pretrained import Pretrained, from_pretrained, read_pretrained
from beit_jax.encoder_features import at_size, encoder_of
from beit_jax.errors import UserError
from beit_jax.experiment import Experiment
from beit_jax.models import vit
from beit_jax.models.image_size import sides
from beit_jax.models.tokenizer import Tokenizer
from beit_jax.runtime.checkpoint_folder import find_checkpoint
from beit_jax.tasks import Task, create_task, create_tokenizer
from beit_jax.tasks.pretrain import Pretrain
from beit_jax.typing import Params


class LoadedEncoder(NamedTuple):
    """An encoder for images of one size.

    Attributes:
      encoder: the network.
      params: its parameters.
      image_size: height and width in pixels of the images that it sees.
      preprocess: section with its pixel statistics, see `convert.preprocessing`.
    """

    encoder: vit.Encoder
    params: Params
    image_size: tuple[int, int]
    preprocess: ConfigDict


class LoadedTokenizer(NamedTuple):
    """A tokenizer and its parameters; `preprocess` as in `LoadedEncoder`."""

    tokenizer: Tokenizer
    params: Params
    preprocess: ConfigDict


class LoadedPretraining(NamedTuple):
    """A model that was pre-trained on tokens.

    Attributes:
      task: with the tokenizer.
      params: of the model.
      frozen: of the tokenizer, as the task takes them.
      preprocess: as in `LoadedEncoder`.
    """

    task: Pretrain
    params: Params
    frozen: dict[str, Params]
    preprocess: ConfigDict


def load_encoder(name: str, size: tuple[int, int] | None = None) -> LoadedEncoder:
    """The encoder of a checkpoint of any task; that of a task with a frozen encoder is the one that it reads.

    Args:
      name: a run, one of its checkpoints, a file, a folder or a hub id, as `from_pretrained` reads them.
      size: height and width of the images it is to see, for which positions are interpolated; None: its own.

    Raises:
      UserError: there is no encoder, or the size does not fit its patches.
    """
    model, params, config = _load("checkpoint", name)
    task = create_task(config)
    if "encoder" in task.frozen_parts:
        params = _load_frozen_part(name, task, "encoder", "give the checkpoint of that encoder")["encoder"]
    encoder, own = encoder_of(model, params, name)
    size = size or sides(config.model.image_size)
    return LoadedEncoder(*at_size(encoder, own, size), size, config.preprocess)


def load_tokenizer(name: str, flag: str = "checkpoint") -> LoadedTokenizer:
    """A tokenizer: itself, or the one that a pre-training reads. It computes in float32.

    Args:
      name: as in `load_encoder`.
      flag: that gave the name, for messages.

    Raises:
      UserError: there is no tokenizer.
    """
    cli.local_folder(flag, name)
    params, config = read_pretrained(name)
    task = create_task(config)
    tokenizer = getattr(task, "tokenizer", None)
    if not isinstance(tokenizer, Tokenizer):
        raise UserError(
            f"--{flag}={name} is a model of the task {task.config.task!r}, which has no tokenizer; expected a tokenizer"
        )
    if "tokenizer" in task.frozen_parts:
        params = _load_frozen_part(name, task, "tokenizer", f"give that itself as --{flag}")["tokenizer"]
    if tokenizer.channels != 3:
        raise UserError(
            f"--{flag}={name} is for images of {tokenizer.channels} channels, and this command shows RGB; the pictures "
            "of its run show the channels that data.bands chooses"
        )
    tokenizer = create_tokenizer(tokenizer.section, tokenizer.image_size)
    return LoadedTokenizer(tokenizer, params, config.preprocess)


def load_pretraining(name: str, tokenizer_name: str = "") -> LoadedPretraining:
    """A model that was pre-trained on tokens, with its tokenizer.

    Args:
      name: of the model, as in `load_encoder`.
      tokenizer_name: of the tokenizer; empty: the one that the run was made with.

    Raises:
      UserError: it is no such model, or the tokenizer does not fit it or cannot decode.
    """
    loaded = _load("checkpoint", name)
    task = create_task(loaded.config)
    if not isinstance(task, Pretrain):
        raise UserError(
            f"{name} is a model of the task {task.config.task!r}; expected one pre-trained on tokens (task 'pretrain')"
        )
    if task.config.data.channels != 3:
        raise UserError(f"{name} is for images of {task.config.data.channels} channels, and this command shows RGB")
    if task.on_all:
        raise UserError(f"{name} has loss_on='all'; expected a model of the tokens of masked patches")
    if tokenizer_name:
        given = load_tokenizer(tokenizer_name, "tokenizer")
        if given.tokenizer.vocab != task.outputs:
            raise UserError(
                f"--tokenizer={tokenizer_name} has {given.tokenizer.vocab} tokens, and {name} predicts {task.outputs}; "
                "expected the tokenizer that it was trained with"
            )
        task = Pretrain(_with_tokenizer(task.config, given.tokenizer.section))
        frozen = {"tokenizer": given.params}
    else:
        frozen = _load_frozen_part(name, task, "tokenizer", "give it: --tokenizer=NAME")
    _check_decoder(f"the tokenizer of {name}", task.tokenizer)
    return LoadedPretraining(task, loaded.params, frozen, loaded.config.preprocess)


def _load(flag: str, name: str) -> Pretrained:
    cli.local_folder(flag, name)
    return from_pretrained(name)


def _check_decoder(name: str, tokenizer: Tokenizer) -> None:
    if not tokenizer.can_decode:
        raise UserError(
            f"{name} is of the kind {tokenizer.section.kind!r}, which cannot make images of tokens; expected a kind "
            "that decodes, such as dvae"
        )


def _with_tokenizer(config: ConfigDict, section: ConfigDict) -> ConfigDict:
    """A pre-training's config with the tokenizer of another section: of a pre-training, or `model` of its own task."""
    names = ("kind", *tokenizer_kinds.KINDS.find(section.kind).keys)
    return ConfigDict({**config, "tokenizer": {name: section[name] for name in names} | {"init_from": ""}})


def _load_frozen_part(name: str, task: Task, part: str, advice: str) -> dict[str, Params]:
    if not task.frozen_parts[part].source:
        raise UserError(f"{name} does not say which {part} it was trained with; {advice}")
    return _load_frozen(name, task)


def _load_frozen(name: str, task: Task) -> dict[str, Params]:
    """What the task of a run reads and does not learn, by the name of the part, on the devices that are there."""
    config = task.config.copy_and_resolve_references()
    with config.unlocked():
        config.mesh = configs.defaults(config.task, tokenizer_kinds.kind_of(config)).mesh  # of how many the run had
    experiment = Experiment(config, find_checkpoint(name).parents[1], task)
    return jax.tree.map(np.asarray, experiment.frozen)
