"""Evaluates a checkpoint of any task.

  python -m beit_jax.evaluate --checkpoint runs/quickstart/finetune_seed0
  python -m beit_jax.evaluate --checkpoint runs/pretrain/checkpoints/5000 --config.data.eval_split=test --pictures out
  python -m beit_jax.evaluate --checkpoint runs/pretrain --bound

The config is that of the run; --config FILE replaces it, --config.key=value changes a key. The command prints one JSON
object. For a tokenizer or a pre-training, --bound gives the terms of the paper's evidence lower bound instead of the
usual numbers, in nats per image; `beit_jax/tasks/elbo.py` says what each of them means.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from beit_jax import cli
from beit_jax import config as configs
from beit_jax.errors import UserError
from beit_jax.runtime import distributed


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    parser = cli.config_parser("beit_jax.evaluate", __doc__, "configs/finetune.py")
    parser.add_argument("--checkpoint", metavar="FOLDER", default="", help="a run, or one of its checkpoints")
    parser.add_argument("--pictures", metavar="FOLDER", default="", help="folder to write pictures to")
    parser.add_argument("--bound", action="store_true", help="the terms of the evidence lower bound")
    args, overrides = parser.parse_known_args(argv)
    if args.help:
        cli.print_help(parser, args.config, overrides)
    cli.required_folder("checkpoint", args.checkpoint, "runs/finetune")
    distributed.start()
    config, checkpoint = _open(args, overrides)

    from beit_jax.training import memory_check

    advice = f"lower --config.batch_size, which is {config.batch_size}; the numbers do not depend on it"
    with memory_check.explained(lambda: advice):
        numbers = evaluate(config, checkpoint, args.pictures, bound=args.bound)
    if distributed.is_main():
        print(json.dumps(numbers, indent=1))


def _open(args: argparse.Namespace, overrides: Sequence[str]) -> tuple[ConfigDict, Path]:
    """The config, of `--config` or of the run, and the checkpoint."""
    from beit_jax.training import checkpoint as checkpoints

    checkpoint = checkpoints.find_checkpoint(args.checkpoint)
    config = configs.load(args.config) if args.config else configs.from_json(checkpoints.load_config(checkpoint))
    if "stages" in config:
        raise UserError(f"--config={args.config} is a recipe of several runs; leave it out to take the run's own")
    cli.override(config, overrides)
    return config, checkpoint


def evaluate(config: ConfigDict, checkpoint: Path, pictures: str = "", *, bound: bool = False) -> dict[str, float]:
    """The numbers of a checkpoint over `data.eval_split`.

    Args:
      config: of the run.
      checkpoint: from `training.checkpoint.find_checkpoint`.
      pictures: folder to write pictures to; empty: none.
      bound: whether to measure the terms of `tasks.elbo` in place of the task's own numbers.

    Raises:
      UserError: the config is wrong, or the checkpoint does not fit it.
    """
    import jax

    from beit_jax import tasks
    from beit_jax.experiment import Experiment, complete
    from beit_jax.tasks.elbo import elbo_task
    from beit_jax.training import sharding
    from beit_jax.training.metrics import save_pictures

    configs.validate(config)
    config = complete(config)
    if "cache_features" in config:
        config.cache_features = False  # images are read once anyway
    task = tasks.create_task(config)
    run = checkpoint.parents[1]  # of RUN/checkpoints/STEP
    experiment = Experiment(config, run, elbo_task(task) if bound else task)
    sharding.check_batch(experiment.mesh, config.batch_size)
    experiment.data.check_ops("eval_")
    evaluations = [] if bound else experiment.data.evaluations
    batches, params = experiment.data.open_eval_set(), experiment.load_params(checkpoint)
    with jax.set_mesh(experiment.mesh):
        evaluator = experiment.evaluator
        if pictures:
            images = evaluator.pictures(params, experiment.frozen, batches)
            if distributed.is_main():
                save_pictures(Path(pictures), images)
        values = evaluator.run(params, experiment.frozen, batches)
        for evaluation in evaluations:
            values |= evaluation(experiment.mesh, params, experiment.frozen)
        return values


if __name__ == "__main__":
    cli.run(main)
