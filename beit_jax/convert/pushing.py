"""Publishes models on the hub of Hugging Face: safetensors and a model card, in one commit."""

import re
import tempfile
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config import from_json
from beit_jax.convert import hub, locate, model_card, shards
from beit_jax.convert.layouts import task_layout
from beit_jax.convert.pretrained import read_pretrained
from beit_jax.convert.saving import check_format, save_pretrained
from beit_jax.errors import Mistakes, UserError
from beit_jax.runtime.atomic_write import atomic_write
from beit_jax.runtime.checkpoint_folder import find_checkpoint, holds_checkpoint
from beit_jax.runtime.paths import as_path
from beit_jax.training.checkpoint import load_config
from beit_jax.training.params import flatten

FORMATS = ("hf", "timm", "data2vec", "safetensors")  # without pickles and Orbax
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?|(preprocessor_)?config\.json")  # what we write


def check_push(
    id: str, license: str | None, format: str | None, max_shard_size: int | str = shards.MAX_SHARD_SIZE
) -> None:
    """Checks what does not depend on the model.

    Raises:
      UserError: the id, the licence, the format or the size is none.
    """
    mistakes = Mistakes()
    with mistakes.collected():
        shards.check_size(max_shard_size)
    if not hub.is_id(id) or "@" in id:
        mistakes.add(f"{id} is no id of the hub; expected owner/name")
    if not license or not LICENSE.fullmatch(license):
        mistakes.add(
            f"license={license!r}; expected the hub's key of the licence of these weights, such as apache-2.0, mit, "
            "cc-by-nc-4.0 or other"
        )
    if format not in (None, *FORMATS):
        mistakes.add(f"format={format!r}; expected one of {', '.join(FORMATS)}: the hub gets no pickles and no Orbax")
    mistakes.raise_all()


def push_to_hub(
    source: str | Path,
    id: str,
    *,
    license: str,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    format: str | None = None,
    max_shard_size: int | str = shards.MAX_SHARD_SIZE,
) -> str:
    """Publishes a model: makes the repository if there is none, and writes everything in one commit.

    Weights and settings that an earlier push left there, and that the new ones would not replace, are removed.

    Args:
      source: a run, one of its checkpoints, or what else `from_pretrained` reads.
      id: `owner/name` on the hub.
      license: the hub's key of the licence of the weights, such as "apache-2.0"; the card states it.
      private: whether a new repository is private; None: as the owner's account says.
      token: of an account that may write there, and read `source`; None: that of HF_TOKEN, or of the stored login.
      revision: branch, which is made if there is none; None: `main`.
      commit_message: None: a line that names the task.
      format: "hf", "timm", "data2vec" or "safetensors", see `save_pretrained`; None: "hf" where transformers has such a
        model, otherwise "safetensors".
      max_shard_size: of a file, see `save_pretrained`.

    Returns:
      The id with the commit, as `from_pretrained` takes it: `owner/name@commit`.

    Raises:
      UserError: see `from_pretrained` and `save_pretrained`; the hub refuses it, or the repository is public and
        `private` is True.

    Examples:
      >>> pushed = beit_jax.push_to_hub("runs/finetune", "me/pets", license="mit", private=True)
      >>> pushed  # doctest: +ELLIPSIS
      'me/pets@...'
      >>> beit_jax.from_pretrained(pushed).config.labels
      ('cat', 'dog')
    """
    check_push(id, license, format, max_shard_size)
    check_login(token)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        given = dict(license=license, format=format, max_shard_size=max_shard_size, revision=revision, token=token)
        config = write_published(folder, source, id, **given)
        message = commit_message or f"Upload a model of the task {config.task} with beit_jax"
        with hub.explained(id, revision, token):
            return f"{id}@{_commit(hub.client(token), folder, id, private, revision, message)}"


def check_login(token: str | None) -> None:
    """
    Raises:
      UserError: there is no token to write with.
    """
    from huggingface_hub import get_token

    if not (token or get_token()):
        raise UserError(f"nobody is logged in to the hub, which takes models of its users alone; {hub.LOGIN}")


def write_published(
    folder: Path,
    source: str | Path,
    id: str,
    *,
    license: str,
    format: str | None = None,
    max_shard_size: int | str = shards.MAX_SHARD_SIZE,
    revision: str | None = None,
    token: str | None = None,
) -> ConfigDict:
    """Writes everything that `push_to_hub` publishes into a folder, which must not exist; returns the model's config.

    Raises:
      UserError: see `push_to_hub`.
    """
    check_push(id, license, format, max_shard_size)
    locate.check_target(folder, format or "hf")
    if format and (known := _config_of_run(str(source))) is not None:
        check_format(format, known)  # before the weights are read
    params, config = read_pretrained(str(source), options=hub.Options(token=token))
    layout = task_layout(config.task)
    is_hf = "hf" in layout.formats_of(config) and not layout.unsupported(config)
    format = format or ("hf" if is_hf else "safetensors")
    sizes = sum(leaf.size for leaf in flatten(params).values())
    results = model_card.results_of(str(source))
    card = model_card.model_card(id, config, format, license, results, sizes, revision)
    with atomic_write(folder) as part:
        save_pretrained(part, params, config, format=format, max_shard_size=max_shard_size)
        (part / "README.md").write_text(card, encoding="utf-8")
    return config


def _config_of_run(source: str) -> ConfigDict | None:
    """The config of a run of this library, without its parameters; None for other sources."""
    path = as_path(source)
    if not path.is_dir() or not holds_checkpoint(path):
        return None
    return from_json(load_config(find_checkpoint(source)))


def _commit(client: Any, folder: Path, id: str, private: bool | None, revision: str | None, message: str) -> str:
    """Uploads a folder; returns the commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    client.create_repo(id, private=private, exist_ok=True)
    if private and not client.repo_info(id).private:
        raise UserError(f"{id} is public, and private is asked for; make it private on the hub, or choose another id")
    if revision:
        client.create_branch(id, branch=revision, exist_ok=True)
    files = sorted(path.name for path in folder.iterdir())
    stale = [name for name in client.list_repo_files(id, revision=revision) if OURS.fullmatch(name)]
    operations = [CommitOperationAdd(name, folder / name) for name in files]
    operations += [CommitOperationDelete(name) for name in stale if name not in files]
    return client.create_commit(id, operations, commit_message=message, revision=revision).oid
