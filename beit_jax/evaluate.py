"""Evaluates a checkpoint of any task.

  python -m beit_jax.evaluate --checkpoint runs/quickstart/finetune_seed0
  python -m beit_jax.evaluate --checkpoint runs/pretrain/checkpoints/5000 --config.data.eval_split=test --pictures out
  python -m beit_jax.evaluate --checkpoint beit.pth --config.data.source=folder:photos
  python -m beit_jax.evaluate --checkpoint runs/pretrain --bound

The checkpoint is one of this library or of any that `beit_jax.from_pretrained` reads. The config is that of the run;
--config FILE replaces it, --config.key=value changes a key. A checkpoint of another library needs
--config.data.source. The command prints one JSON object.

--pictures writes what the task shows of the first images, and its tables as CSV. Of a classifier these are the
confusion matrix (confusion.csv and confusion.png), the accuracy of each class (classes.csv), and examples that are
classified rightly and wrongly (predictions.png).

For a tokenizer or a pre-training, --bound gives the terms of the paper's evidence lower bound instead of the usual
numbers, in nats per image; `beit_jax/tasks/elbo.py` says what each of them means.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beit_jax import cli, command, extras, local_files, path_flags
from beit_jax import config as configs
from beit_jax.convert import locate
from beit_jax.errors import Mistakes, UserError, printable
from beit_jax.experiment_splits import changed_since
from beit_jax.runtime import distributed, membership
from beit_jax.runtime.atomic_write import write_bytes


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    parser = cli.config_parser("beit_jax.evaluate", __doc__, "configs/finetune.py")
    parser.add_argument(
        "--checkpoint",
        metavar="NAME",
        default="",
        help="a run, one of its checkpoints, or a checkpoint of another library: a folder, a file or a hub id",
    )
    parser.add_argument("--pictures", metavar="FOLDER", default="", help="folder to write pictures and tables to")
    parser.add_argument("--bound", action="store_true", help="the terms of the evidence lower bound")
    args, overrides = parser.parse_known_args(argv)
    if args.help:
        cli.print_help(parser, args.config, overrides)
    _check(parser, args, overrides)
    membership.start()
    opened = _open(parser, args, overrides)

    from beit_jax.training import memory_check

    advice = f"lower --config.batch_size, which is {opened.config.batch_size}; the numbers do not depend on it"
    with memory_check.explained(lambda: advice):
        numbers = evaluate(opened, args.pictures, bound=args.bound)
    if distributed.is_main():
        print(json.dumps(numbers, indent=1))


def _check(parser: cli.Parser, args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Checks everything that can be checked without JAX.

    Raises:
      UserError: all that is wrong.
    """
    mistakes = Mistakes()
    with mistakes.collected():
        locate.check_name(str(cli.required_folder("checkpoint", args.checkpoint, "runs/finetune")))
    with mistakes.collected():
        extras.check_installed("tensorflow", "tensorflow_datasets", *(["matplotlib"] if args.pictures else []))
    with mistakes.collected():
        if args.pictures:
            path_flags.output("pictures", args.pictures, "folder")
    with mistakes.collected():
        config = configs.load(args.config) if args.config else None
        cli.set_keys(parser, config, overrides)
    mistakes.raise_all()


def _open(parser: cli.Parser, args: argparse.Namespace, overrides: Sequence[str]) -> Any:
    """The checkpoint, with the config of `--config` or of the run, which is valid, and whose folders are there."""
    from beit_jax.convert import opening

    config = configs.load(args.config) if args.config else None
    if config is not None and "stages" in config:
        raise UserError(f"--config={args.config} is a recipe of several runs; leave it out to take the run's own")
    opened, mistakes = opening.open_checkpoint(args.checkpoint, config), Mistakes()
    with mistakes.collected():
        cli.set_keys(parser, opened.config, overrides)
    if not opened.config.data.source:
        mistakes.add(
            f"{args.checkpoint} does not say which images to evaluate it on; give them, such as "
            "--config.data.source=folder:PATH"
        )
        mistakes.raise_all()
    with mistakes.collected():
        configs.validate(opened.config)
    with mistakes.collected():
        local_files.check_data(opened.config, ("eval_split",))
    with mistakes.collected():
        if args.pictures:
            local_files.check_outside("pictures", cli.local_folder("pictures", args.pictures), opened.config)
    with mistakes.collected():
        local_files.check_paths(opened.config, without=(*local_files.STARTS, local_files.TOKENS))
    mistakes.raise_all()
    return opened


def evaluate(opened: Any, pictures: str = "", *, bound: bool = False) -> dict[str, float]:
    """The numbers of a checkpoint over `data.eval_split`.

    Args:
      opened: from `convert.opening.open_checkpoint`.
      pictures: folder to write pictures and tables to; empty: none.
      bound: whether to measure the terms of `tasks.elbo` in place of the task's own numbers.

    Raises:
      UserError: the config is wrong, or the checkpoint does not fit it.
    """
    import jax

    from beit_jax import tasks
    from beit_jax.experiment import Experiment
    from beit_jax.experiment_config import complete
    from beit_jax.experiment_start import fill_in_statistics
    from beit_jax.experiment_tokenizer import fill_in_tokenizer
    from beit_jax.tasks.elbo import elbo_task
    from beit_jax.training import sharding

    configs.validate(opened.config)
    config = fill_in_statistics(fill_in_tokenizer(opened.config, opened.folder, {}), opened.start)
    config = complete(config, to_train=False)
    if "cache_features" in config:
        config.cache_features = False  # images are read once anyway
    task = tasks.create_task(config)
    experiment = Experiment(config, opened.folder, elbo_task(task) if bound else task)
    sharding.check_batch(experiment.mesh, config.batch_size)
    experiment.data.check_ops("eval_")
    _warn_of_change(opened)
    evaluations = [] if bound else experiment.data.evaluations
    batches, params = experiment.data.open_eval_set(), experiment.load_params(opened.source)
    with jax.set_mesh(experiment.mesh):
        evaluator = experiment.evaluator
        values, tables = evaluator.run(params, experiment.frozen, batches)
        for evaluation in evaluations:
            values |= evaluation(experiment.mesh, params, experiment.frozen)
        if pictures:
            _write_pictures(cli.local_folder("pictures", pictures), experiment, evaluator, params, batches, tables)
        return values


def _warn_of_change(opened: Any) -> None:
    """Warns if the run was evaluated on the same split, and that held other images then."""
    trained, data = opened.start.config.get("data"), opened.config.data
    if trained is None or any(trained[key] != data[key] for key in ("source", "data_dir", "eval_split")):
        return
    if distributed.is_main() and (change := changed_since(data, opened.folder, ("eval_split",))):
        logging.getLogger("beit_jax").warning("%s has changed since the run began: %s", data.source, printable(change))


def _write_pictures(folder: Path, experiment: Any, evaluator: Any, params: Any, batches: Any, tables: Any) -> None:
    """Writes the task's pictures and tables, pictures of its confusion matrices, and examples of what it predicts."""
    from beit_jax.convert import preprocessing
    from beit_jax.tasks import shown_bands
    from beit_jax.tasks.confusion import names_of
    from beit_jax.training import metrics
    from beit_jax.visualize import classification

    task, config = experiment.task, experiment.config
    images, files = evaluator.pictures(params, experiment.frozen, batches), {}
    if task.classifies:
        examples = evaluator.examples(params, experiment.frozen, batches)
        section = preprocessing.from_config(config)
        names = names_of(config.labels, config.model.num_classes)
        examples, pair = shown_bands.of_examples(examples, section.mean, section.std, config.data.bands)
        files["predictions"] = classification.draw_sheet(*examples, names, *pair)
    for name in task.report.matrices.keys() & tables.keys():
        files[name] = classification.draw_matrix(tables[name])
    if not distributed.is_main():
        return
    try:
        metrics.save_pictures(folder, images)
        metrics.save_tables(folder, tables)
        for name, png in files.items():
            write_bytes(folder / f"{name}.png", png)
    except OSError as error:
        raise UserError(f"--pictures={folder} cannot be written: {error}; choose another folder") from error


if __name__ == "__main__":
    command.run(main)
