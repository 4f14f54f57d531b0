"""Opens checkpoints of any library as runs, for commands that compute with them on all devices."""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from beit_jax import cli
from beit_jax import config as configs
from beit_jax.convert import locate
from beit_jax.convert.pretrained import read_pretrained
from beit_jax.convert.saving import run_config
from beit_jax.experiment_start import Start, fill_in_labels, start_at
from beit_jax.runtime.checkpoint_folder import find_checkpoint, holds_checkpoint
from beit_jax.training import checkpoint
from beit_jax.typing import Params


class Opened(NamedTuple):
    """A checkpoint as a run.

    Attributes:
      config: of the run. `data.eval_ops` do the checkpoint's preprocessing; `data.source` is empty if it is of another
        library.
      source: of the parameters, for `Experiment.load_params`.
      folder: of the run, beside which the stages of its recipe lie.
      start: what the checkpoint says of its training.
    """

    config: ConfigDict
    source: Path | Params
    folder: Path
    start: Start


def open_checkpoint(name: str, config: ConfigDict | None = None) -> Opened:
    """Opens a run, one of its checkpoints, or what else `from_pretrained` takes.

    Args:
      name: a folder, a file or a hub id.
      config: in place of the checkpoint's own; if it names no classes, they are those of the checkpoint.

    Raises:
      UserError: see `from_pretrained`.
    """
    cli.local_folder("checkpoint", name)
    path = locate.local_path(name)
    if holds_checkpoint(path):
        source = find_checkpoint(str(path))
        folder = source.parent.parent  # of RUN/checkpoints/STEP
        own = configs.from_json(checkpoint.load_config(source)) if config is None else None
        start = start_at(source, name)
    else:
        (source, found), folder = read_pretrained(name, path=path), path.absolute()
        own = run_config(found)
        start = Start(own, name, continues=True)
    return Opened(own if config is None else fill_in_labels(config, start), source, folder, start)
