"""Weights of other libraries, and of the hub, as the start of a run: what the keys `init_from` name.

A run of this library is read where it lies. Everything else that `from_pretrained` reads is imported once, as such a
run, into WORKDIR/imported. An interrupted run goes on without the network, and with the weights that it began with,
also if a branch of the hub has moved. The config.json of the run says what the user wrote.
"""

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config.serialization import flatten, from_json
from beit_jax.convert import hub
from beit_jax.errors import UserError
from beit_jax.machine import find_machine
from beit_jax.runtime import distributed
from beit_jax.runtime.atomic_write import PART
from beit_jax.runtime.checkpoint_folder import find_checkpoint, has_checkpoint, holds_checkpoint
from beit_jax.runtime.paths import as_path
from beit_jax.runtime.urls import is_bucket

FOLDER = "imported"  # of a workdir
KEYS = ("init_from", "encoder.init_from", "tokenizer.init_from")
LONGEST = 60  # characters of a source in the name of its folder
TIMEOUT_S = 4 * 3600  # for a download, for which the other processes wait


def config_of(name: str) -> ConfigDict:
    """The config of a checkpoint: of a run of this library, or as `from_pretrained` returns it.

    Args:
      name: a folder, a file or a hub id, which is downloaded.

    Raises:
      UserError: see `from_pretrained`.
    """
    path = _check_name(name)
    if path and holds_checkpoint(path):
        from beit_jax.training import checkpoint

        return from_json(checkpoint.load_config(find_checkpoint(name)))
    return _read(name)[1].copy_and_resolve_references()


@functools.cache  # a config asks for the sizes, and then training for the weights
def _read(name: str) -> tuple[dict[str, Any], ConfigDict]:
    from beit_jax.convert.pretrained import read_pretrained

    find_machine()  # reading needs JAX, whose processes find each other's devices together
    try:
        return read_pretrained(name)
    except UserError as error:
        if as_path(name).exists():
            raise
        raise UserError(f"{name} is not here; as a hub id: {error}") from error


def check_source(source: str, workdir: Path | None) -> None:
    """Checks that a key of KEYS names something that can be read. Nothing is downloaded.

    Args:
      source: the value of the key.
      workdir: of the run, which may have imported it; None: not known.

    Raises:
      UserError: there is no such checkpoint.
    """
    if workdir and _is_imported(folder_of(source, workdir)):
        return
    if needs_import(source):
        _check_name(source)
        return
    try:
        find_checkpoint(source)
    except UserError as error:
        if hub.is_id(source) and not Path(source).exists():
            raise UserError(f"{error}, or {source}@main if it is a hub id") from error
        raise


def _check_name(name: str) -> Path | None:
    from beit_jax.convert import locate  # which `--help` does not need

    return locate.check_name(name)


def needs_import(source: str) -> bool:
    """Whether a key of KEYS names what is no run of this library.

    What has the form of a hub id, and lies in a folder that exists, is taken for a path, unless it names a revision.
    """
    path = as_path(source)
    if source in ("", "random") or source.startswith("stage:"):
        return False
    if path.exists():
        return not holds_checkpoint(path)
    return hub.is_id(source) and ("@" in source or not path.parent.is_dir())


def folder_of(source: str, workdir: Path) -> Path:
    """The folder into which the training in a workdir imports a source."""
    words = re.sub(r"[^\w.-]+", "-", source, flags=re.ASCII)[-LONGEST:].strip(".-")
    return workdir / FOLDER / f"{words}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def import_sources(
    stages: Mapping[str, ConfigDict], folders: Mapping[str, Path], workdir: Path
) -> dict[str, ConfigDict]:
    """Copies of configs in which the keys of KEYS name runs of this library. All processes call it; process 0 imports.

    Args:
      stages: by name, valid; those that will run.
      folders: of all stages.
      workdir: in which they lie.

    Raises:
      UserError: in every process, if a source cannot be read or its copy cannot be written.
    """
    find_machine()
    replaced, mistakes = {}, ()
    if distributed.is_main():
        try:
            replaced = {name: _import_all(stage, folders[name], workdir) for name, stage in stages.items()}
        except UserError as error:
            mistakes = error.lines
    _read.cache_clear()
    replaced, mistakes = json.loads(distributed.broadcast_from_main(json.dumps([replaced, mistakes]), TIMEOUT_S))
    if mistakes:
        raise UserError(*mistakes)
    changed = {name: stage.copy_and_resolve_references() for name, stage in stages.items()}
    for name, values in replaced.items():
        changed[name].update_from_flattened_dict(values)
    return changed


def _import_all(config: ConfigDict, run: Path, workdir: Path) -> dict[str, str]:
    """Imports what a run starts from; the new values of its keys."""
    replaced, values = {}, flatten(config)
    for key in KEYS:
        source = values.get(key, "")
        target = folder_of(source, workdir)
        if not (needs_import(source) or _is_imported(target)):
            continue
        if key != "init_from" or not has_checkpoint(run):  # a run goes on from its own checkpoint
            _import_once(key, source, target)
        # As with stages, a recipe's folder can be moved.
        replaced[key] = str(target.absolute()) if run == workdir else f"stage:{FOLDER}/{target.name}"
    return replaced


def _is_imported(target: Path) -> bool:
    """Whether all of a source is there; an upload to a bucket may have been cut short."""
    if not is_bucket(target):
        return target.exists()
    from beit_jax.runtime.bucket_path import is_incomplete

    return target.is_dir() and not is_incomplete(target)


def _import_once(key: str, source: str, target: Path) -> None:
    if _is_imported(target):
        print(f"{key}={source}: {target}, imported before", flush=True)
        return
    from beit_jax.convert.saving import save_pretrained

    try:
        if is_bucket(target):
            target.rmtree(missing_ok=True)  # what a start that was killed has left
        else:
            for left in target.parent.glob(f"{target.name}{PART}*"):
                shutil.rmtree(left)
        save_pretrained(target, *_read(source), format="beit_jax")
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}; choose another --workdir") from error
    except UserError as error:
        lines = (f"{key}={'' if line.startswith(source) else f'{source}: '}{line}" for line in error.lines)
        raise UserError(*lines) from error
    print(f"{key}={source}: imported into {target}", flush=True)
