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

import itertools
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from beit_jax import cli
from beit_jax import config as configs
from beit_jax.errors import UserError


def main(argv: Sequence[str]) -> None:
    """The door; see the module's docstring."""
    values = _flags()
    flags.DEFINE_string("config", "", "Config file, with arguments: FILE[:name=value,...].", flag_values=values)
    cli.print_help(argv, f"{__doc__}\nAny key of the config: --config.key=value\n", values)
    path, rest = cli.take(argv, "config")
    if not path:
        raise UserError("--config is missing; expected that of a pre-training, such as --config=configs/pretrain.py")
    config, values = configs.load(path), _flags()
    cli.parse(rest, values, config)
    if not values.out:
        raise UserError("--out is missing; expected the folder of the tokens, such as --out=tokens")
    out = cli.local_folder("out", values.out)
    print(tokenize(config, values.stage, out, *cli.share(values.worker)))


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("out", "", "Folder of the tokens; made where it does not exist.", flag_values=values)
    flags.DEFINE_string("stage", "", "Which stage of a recipe.", flag_values=values)
    flags.DEFINE_string("worker", "0/1", "I/N: of N machines, this is number I, from 0 on.", flag_values=values)
    return values


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
    import jax

    from beit_jax import experiment
    from beit_jax.training import initialize, sharding

    run = experiment.prepare(_checked(config, stage), out, {})
    mesh, size, steps = sharding.make_mesh(run.config.mesh), run.config.batch_size, run.steps.total
    tokens = experiment.StoredTokens(out, experiment.pretrain.grid(run.config), size)
    print(f"{steps:,} steps of {size} images, {steps * size * tokens.row.itemsize / 1e6:,.3g} MB in all", flush=True)
    with jax.set_mesh(mesh):
        frozen = initialize.load_frozen(run.config, run.task, mesh, out)
        tokens.claim(experiment.stream_key(run.config, 1) | experiment.tokenizer_key(frozen, mesh))
        parts = tokens.parts(steps)
        own = parts[len(parts) * worker // workers : len(parts) * (worker + 1) // workers]
        _write(tokens, own, run.stream, _encoder(run.config, frozen, mesh))
    missing = len(tokens.missing(parts))
    if missing:
        return (
            f"{out}: {missing} of {len(parts)} files are those of other workers and are not there yet; each worker's "
            "command completes its part, and the command without --worker all of them"
        )
    key = f"config.{stage}.tokens" if stage else "config.tokens"
    return f"{out}: tokens of {steps:,} steps\ntrain with them with --{key}={shlex.quote(str(out))}"


def _checked(config: ConfigDict, stage: str) -> ConfigDict:
    from beit_jax.data.records.stored_tokens import LARGEST_VOCAB
    from beit_jax.validate import validate

    chosen = configs.stage_of(config, stage)
    if chosen.task != "pretrain":
        raise UserError(f"found task={chosen.task!r}, expected the config of a pre-training, whose tokens are computed")
    if chosen.target != "tokens":
        raise UserError(f"found target={chosen.target!r}, expected tokens: this pre-training reads none")
    chosen.tokens = "tokens"  # for the check of whether the config can have any
    validate(config)
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


def _encoder(config: ConfigDict, frozen: Any, mesh: Any) -> Callable[[Any], Any]:
    """From images `[b, h, w, 3]` to tokens `[b, g, g]` on the devices, without waiting for them."""
    import jax

    from beit_jax.tasks import pretrain
    from beit_jax.training import sharding

    net = pretrain.tokenizer_of(config)
    encode = jax.jit(lambda params, images: net.apply({"params": params}, images, method=net.tokens))
    return lambda images: encode(frozen["tokenizer"], sharding.to_devices(mesh, {"image": images})["image"])


def _write(tokens: Any, own: Sequence[tuple[int, int]], stream_from: Callable, encode: Callable) -> None:
    """Makes the files that are missing, those in a row from one stream."""
    import numpy as np

    from beit_jax.data.records.stored_tokens import level
    from beit_jax.runtime.progress import progress_bar

    missing, size, at = tokens.missing(own), tokens.batch_size, -1
    total, left = (sum(stop - start for start, stop in parts) * size for parts in (own, missing))
    with progress_bar(total, total - left) as progress:
        for start, stop in missing:
            if start != at:
                stream = stream_from(start, 1)
            batches = itertools.islice(stream, stop - start)
            made = ((encode(batch["tokenizer_image"]), level(batch["image"])) for batch in batches)
            rows = np.empty((stop - start, size), tokens.row)
            for place, (found, levels) in enumerate(_ahead(made)):
                rows["tokens"][place], rows["level"][place] = np.asarray(found).reshape(size, -1), levels
                progress.update(size)
            tokens.write(start, rows)
            at = stop


def _ahead(items: Iterable) -> Iterator:
    """The items, each handed out when the one after it has been begun."""
    items = iter(items)
    now = next(items)
    for following in items:
        yield now
        now = following
    yield now


if __name__ == "__main__":
    cli.run(main)
