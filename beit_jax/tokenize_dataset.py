"""Computes the tokens of a pre-training once, for every run over the same images in the same order.

  python -m beit_jax.tokenize_dataset --config configs/pretrain.py --out tokens \\
      --config.tokenizer.init_from=runs/tokenizer
  python -m beit_jax.train --config configs/pretrain.py --workdir runs/pretrain \\
      --config.tokenizer.init_from=runs/tokenizer --config.tokens=tokens
  python -m beit_jax.tokenize_dataset ... --out /nfs/tokens --worker 3/8    the fourth of eight machines

Crops, flips and jitter depend on the seed, the epoch and the example alone, so that the tokens of a step are those of
the same step in any run with the same data, ops, seed, batch size and tokenizer, whatever its model, optimizer and
masks are. The length is that of the config's run; a longer one adds to the same folder. Run the same command again
after a stop of any kind: finished files are kept.
"""

import argparse
import itertools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from beit_jax import cli, command, extras, local_files
from beit_jax import config as configs
from beit_jax.errors import Mistakes, UserError
from beit_jax.runtime.bucket import check_access
from beit_jax.runtime.urls import is_bucket


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    parser = cli.config_parser("beit_jax.tokenize_dataset", __doc__, "configs/pretrain.py")
    parser.add_argument("--out", metavar="FOLDER", default="", help="folder of the tokens; made if it does not exist")
    parser.add_argument("--stage", default="", help="which stage of a recipe")
    parser.add_argument("--worker", default="0/1", metavar="I/N", help="of N machines, this is number I, from 0 on")
    args, config = cli.parse_with_config(parser, argv, _check_command)
    out = cli.local_folder("out", args.out)
    print(tokenize(config, args.stage, out, *cli.worker_index(args.worker)))


def _check_command(args: argparse.Namespace, config: ConfigDict | None) -> None:
    mistakes = Mistakes()
    with mistakes.collected():
        out = cli.required_folder("out", args.out, "tokens")
        if is_bucket(out):
            check_access("--out=", str(out), writes=True)
    with mistakes.collected():
        cli.worker_index(args.worker)
    with mistakes.collected():
        extras.check_installed("tensorflow", "tensorflow_datasets")
    with mistakes.collected():
        if config is not None:
            _check_stage(config, args.stage, args.out)
    mistakes.raise_all()


def _check_stage(config: ConfigDict, stage: str, out: str) -> None:
    mistakes, chosen = Mistakes(), configs.stage_of(config, stage)
    with mistakes.collected():
        configs.validate(config)
    with mistakes.collected():
        local_files.check_data(chosen, ("split",))
    with mistakes.collected():
        if out:
            local_files.check_outside("out", cli.local_folder("out", out), chosen)
    with mistakes.collected():
        local_files.check_paths(chosen, without=(*local_files.STARTS, local_files.TOKENS))
    mistakes.raise_all()


def tokenize(config: ConfigDict, stage: str, out: Path, worker: int, workers: int) -> str:
    """Computes what is missing of a worker's part of the tokens.

    Args:
      config: of a pre-training, or of a recipe.
      stage: of the recipe; empty for a run.
      out: the folder of the tokens.
      worker: which one this is, of those that work at the same time.
      workers: how many there are; each has a contiguous part of the steps.

    Returns:
      What is there now, in words.

    Raises:
      UserError: the config is wrong, the folder holds other tokens or cannot be written. Finished files stay.
    """
    from beit_jax.data.records.stored_tokens import StoredTokens
    from beit_jax.experiment import Experiment
    from beit_jax.training import memory_check

    experiment = Experiment.build(_checked(config, stage), out)
    batch_size, steps = experiment.config.batch_size, experiment.lengths.total
    tokens = StoredTokens(out, experiment.task.grid, batch_size)
    size = steps * batch_size * tokens.row.itemsize / 1e6
    print(f"{steps:,} steps of {batch_size} images, {size:,.3g} MB in all", flush=True)
    tokens.claim_folder(experiment.data.stream_key(1) | experiment.data.tokenizer_key())
    parts = tokens.file_ranges(steps)
    own = parts[len(parts) * worker // workers : len(parts) * (worker + 1) // workers]
    with memory_check.explained(lambda: "use a machine or more devices with more memory; finished files are kept"):
        _write(tokens, own, experiment.data.train_batches, _encoder(experiment))
    missing = len(tokens.missing_ranges(parts))
    if missing:
        return (
            f"{out}: {missing} of {len(parts)} files are those of other workers and are not there yet; each worker's "
            "command completes its part, and the command without --worker all of them"
        )
    key = f"config.{stage}.tokens" if stage else "config.tokens"
    return f"{out}: tokens of {steps:,} steps\ntrain with them with --{key}={shlex.quote(str(out))}"


def _checked(config: ConfigDict, stage: str) -> ConfigDict:
    from beit_jax.data.records.stored_tokens import LARGEST_VOCAB
    from beit_jax.tasks import create_task
    from beit_jax.tasks.pretrain import Pretrain

    chosen = configs.stage_of(config, stage)
    if not isinstance(create_task(chosen), Pretrain):
        raise UserError(
            f"found task={chosen.task!r}, expected the config of a pre-training on tokens, which are computed here"
        )
    chosen.tokens = "tokens"  # for the check of whether the config can have any
    configs.validate(config)
    chosen.tokens = ""
    if chosen.tokenizer.vocab > LARGEST_VOCAB:
        raise UserError(
            f"tokenizer.vocab={chosen.tokenizer.vocab}; expected at most {LARGEST_VOCAB}: a token has two bytes"
        )
    if chosen.tokenizer.init_from.startswith("stage:"):
        name = chosen.tokenizer.init_from.removeprefix("stage:")
        raise UserError(
            f"found tokenizer.init_from=stage:{name}, expected the folder of that run once it has ended: "
            f"--config.{stage}.tokenizer.init_from=WORKDIR/{name}"
        )
    return chosen


def _encoder(experiment: Any) -> Callable[[Any], Any]:
    """From images `[b, h, w, 3]` to tokens `[b, g, g]` on the devices, without waiting for them."""
    import jax

    from beit_jax.training import sharding

    params, encode = experiment.frozen["tokenizer"], jax.jit(experiment.task.tokenizer.targets)

    def tokens_of(images: Any) -> Any:
        with jax.set_mesh(experiment.mesh):
            return encode(params, sharding.to_devices(experiment.mesh, {"image": images})["image"])

    return tokens_of


def _write(tokens: Any, own: Sequence[tuple[int, int]], stream_from: Callable, encode: Callable) -> None:
    """Writes the files that are missing; those that follow each other are read from one stream."""
    import numpy as np

    from beit_jax.data.records.stored_tokens import mean_level
    from beit_jax.runtime.one_ahead import one_ahead
    from beit_jax.runtime.progress import progress_bar

    missing, size, position = tokens.missing_ranges(own), tokens.batch_size, -1
    total, left = (sum(stop - start for start, stop in parts) * size for parts in (own, missing))
    with progress_bar(total, total - left) as progress:
        for start, stop in missing:
            if start != position:
                stream = stream_from(start, 1)
            batches = itertools.islice(stream, stop - start)
            encoded = ((encode(batch["tokenizer_image"]), mean_level(batch["image"])) for batch in batches)
            rows = np.empty((stop - start, size), tokens.row)
            for index, (step_tokens, levels) in enumerate(one_ahead(encoded)):
                rows["tokens"][index], rows["level"][index] = np.asarray(step_tokens).reshape(size, -1), levels
                progress.update(size)
            tokens.write_steps(start, rows)
            position = stop


if __name__ == "__main__":
    command.run(main)
