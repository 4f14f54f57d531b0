"""Evaluates a checkpoint of any task.

  python -m beit_jax.evaluate --checkpoint runs/quickstart/finetune_seed0
  python -m beit_jax.evaluate --checkpoint runs/pretrain/checkpoints/5000 --config.data.eval_split=test --pictures out
  python -m beit_jax.evaluate --checkpoint runs/pretrain --bound

The config is the one that the run was made with; --config FILE puts another in its place, --config.key=value changes a
key. Prints one JSON object. --bound, of a tokenizer or a pre-training, gives the terms of the paper's evidence lower
bound in place of the usual numbers, in nats per image; `beit_jax/tasks/bound.py` says what each of them means.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from beit_jax import cli
from beit_jax import config as configs
from beit_jax.errors import UserError
from beit_jax.runtime import distributed


def main(argv: Sequence[str]) -> None:
    """The door; see the module's docstring."""

    def define() -> flags.FlagValues:
        values = flags.FlagValues()
        flags.DEFINE_string("checkpoint", "", "Folder of a run, or of one of its checkpoints.", flag_values=values)
        flags.DEFINE_string("pictures", "", "Folder to write pictures to.", flag_values=values)
        flags.DEFINE_bool("bound", False, "The terms of the evidence lower bound.", flag_values=values)
        return values

    values = define()
    flags.DEFINE_string("config", "", "Config file in place of the run's own.", flag_values=values)
    cli.print_help(argv, f"{__doc__}\nAny key of the config: --config.key=value\n", values)
    checkpoint, _ = cli.take(argv, "checkpoint")
    path, rest = cli.take(argv, "config")
    if not checkpoint:
        raise UserError("--checkpoint is missing; expected the folder of a run or of one of its checkpoints")

    from beit_jax.training import checkpoint as checkpoints

    cli.local_folder("checkpoint", checkpoint)
    distributed.start()
    found = checkpoints.find_checkpoint(checkpoint)
    config = configs.load(path) if path else configs.from_json(checkpoints.load_config(found))
    if "stages" in config:
        raise UserError(f"--config={path} is a recipe of several runs; leave it out to take the checkpoint's own")
    values = define()
    cli.parse(rest, values, config)
    numbers = evaluate(config, found, values.pictures, bound=values.bound)
    if distributed.is_main():
        print(json.dumps(numbers, indent=1))


def evaluate(config: ConfigDict, checkpoint: Path, pictures: str = "", *, bound: bool = False) -> dict[str, float]:
    """The numbers of a checkpoint over `data.eval_split`.

    Args:
      config: of the run.
      checkpoint: from `training.checkpoint.find_checkpoint`.
      pictures: folder to write pictures to; empty: none.
      bound: whether to measure what `tasks.bound` does in place of the task's own numbers.

    Raises:
      UserError: the config is wrong, or the checkpoint does not fit it.
    """
    import jax

    from beit_jax import experiment, tasks
    from beit_jax.data import pipeline
    from beit_jax.tasks import elbo as evidence
    from beit_jax.training import initialize, sharding
    from beit_jax.training.checkpoint import load_params
    from beit_jax.training.evaluation import Evaluator
    from beit_jax.training.metrics import save_pictures
    from beit_jax.training.params import merge
    from beit_jax.validate import validate

    validate(config)
    config = experiment.complete(config)
    if "cache_features" in config:
        config.cache_features = False  # images are read once anyway
    task = evidence.create(config) if bound else tasks.create(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(mesh, config.batch_size)
    experiment.check_rows(config, "eval_")
    more = [] if bound else experiment.knn(config, task)
    batches = pipeline.make_eval(config.data, batch_size=config.batch_size, **experiment.processes())
    with jax.set_mesh(mesh):
        abstract = initialize.with_shardings(jax.eval_shape(task.init, jax.random.key(0)), mesh)
        placement = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        params = jax.device_put(merge(abstract, load_params(checkpoint, sharding.replicated(mesh))), placement)
        frozen, evaluator = initialize.load_frozen(config, task, mesh, checkpoint.parents[1]), Evaluator(task, mesh)
        if pictures:
            made = evaluator.pictures(params, frozen, batches)
            if distributed.is_main():
                save_pictures(Path(pictures), made)
        values = evaluator.run(params, frozen, batches)
        for evaluation in more:
            values |= evaluation(mesh, params, frozen)
        return values


if __name__ == "__main__":
    cli.run(main)
