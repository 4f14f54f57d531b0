"""Trains one config, or the stages of a recipe one after the other.

  python -m beit_jax.train --config configs/quickstart.py --workdir runs/quickstart
  python -m beit_jax.train --config configs/pretrain.py:variant=L/16 --workdir runs/large --config.batch_size=1024

Run the same command again to continue after a stop of any kind; finished stages are skipped. On SIGTERM, and
when its terminal is closed, a run saves and ends with status 0. Several processes, started alike, become one run (see
launch/README.md). Each run writes checkpoints/, metrics.jsonl, tensorboard/, pictures/, parameters.txt, config.json,
data.json and, at its end, result.json into its folder, and names images that could not be read in unreadable.txt. A run
goes on only with the data that it began with, of which data.json tells.

The exit status is 0 at the end of a run, or once it is saved after a signal; 2 after an error that you can correct, in
one line; 1 after a fault of the program; 130 after Ctrl-C. 137 means that the system killed the process (SIGKILL),
mostly because memory was full: free some, or raise optimizer.accumulate, and run the same command again.
"""

import argparse
import contextlib
import functools
import gc
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from beit_jax import cli, command, extras, foreign_weights, local_files
from beit_jax import config as configs
from beit_jax.config.loggers import libraries_of
from beit_jax.data.sources.listed_once import listed_once
from beit_jax.errors import Mistakes, UserError, printable
from beit_jax.experiment_splits import DATA, changed_since
from beit_jax.runtime import agreement, bucket, bucket_retries, distributed, lock, membership, preemption
from beit_jax.runtime.atomic_write import write_text
from beit_jax.runtime.bucket_retries import BucketError
from beit_jax.runtime.urls import is_bucket
from beit_jax.workdir import CONFIG, RESULT, check_contents, check_owner, folders_of, read_result, remove_leftovers

LIBRARIES = ("tensorflow", "tensorflow_datasets", "matplotlib")  # for the images, and for the report at the end


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    parser = cli.config_parser("beit_jax.train", __doc__, "configs/quickstart.py")
    parser.add_argument("--workdir", metavar="FOLDER", default="", help="folder of the run; made if it does not exist")
    with listed_once():
        args, config = cli.parse_with_config(parser, argv, _check_command)
    membership.start()
    try:
        train(config, cli.local_folder("workdir", args.workdir))
    except preemption.Preempted as preempted:
        distributed.print_once(preempted.text)
        raise


def _check_command(args: argparse.Namespace, config: ConfigDict | None) -> None:
    mistakes, workdir = Mistakes(), None
    with mistakes.collected():
        workdir = cli.required_folder("workdir", args.workdir, "runs/quickstart")
        if is_bucket(workdir):
            bucket.check_access("--workdir=", str(workdir), writes=True)
    with mistakes.collected():
        extras.check_installed(*LIBRARIES)
    with mistakes.collected():
        if config is not None:
            _check(config, workdir)
    mistakes.raise_all()


def _check(config: ConfigDict, workdir: Path | None) -> None:
    """Checks a config or a recipe, and the folders that its unfinished stages read, without JAX or TensorFlow.

    Raises:
      UserError: everything that is wrong.
    """
    mistakes = Mistakes()
    with mistakes.collected():
        configs.validate(config)
    with mistakes.collected():
        extras.check_installed(*_logger_libraries(config))
    with mistakes.collected():
        configs.check_stages(config, lambda name, stage: _check_files(stage, _folder(config, name, workdir), workdir))
    with mistakes.collected():
        for folder in {workdir, *folders_of(config, workdir).values()} if workdir else ():
            check_contents(folder)
    mistakes.raise_all()


def _logger_libraries(config: ConfigDict) -> list[str]:
    chosen = [stage.get("loggers", ()) for stage in configs.stages_of(config).values()]
    return list(dict.fromkeys(library for names in chosen for library in libraries_of(tuple(names))))


def _check_files(config: ConfigDict, run: Path | None, workdir: Path | None) -> None:
    mistakes = Mistakes()
    with mistakes.collected():
        if run is None or read_result(run) is None:
            check_start = functools.partial(foreign_weights.check_source, workdir=workdir)
            local_files.check_run(config, run, check_start)
    with mistakes.collected():
        if workdir is not None:
            local_files.check_outside("workdir", workdir, config)
    mistakes.raise_all()


def _folder(config: ConfigDict, stage: str, workdir: Path | None) -> Path | None:
    """The folder of a stage; of a config without stages, the workdir."""
    return workdir / stage if workdir and "stages" in config else workdir


def train(config: ConfigDict, workdir: Path) -> dict[str, dict[str, float]]:
    """Runs a config or a recipe in `workdir`; what is finished already is not done again.

    Returns:
      The last evaluation of each stage; a config without stages is one stage called after its task.

    Raises:
      UserError: a mistake of the user. Most mistakes are found before anything is written.
    """
    _check(config, workdir)
    agreement.check_agreement({name: repr(value) for name, value in configs.flatten(config).items()})
    check_owner(workdir, config)
    with lock.lock_workdir(workdir) if distributed.is_main() else contextlib.nullcontext():
        distributed.barrier("workdir")
        if not (workdir / lock.FILE).exists():
            raise UserError(
                f"--workdir={workdir} is not the folder that process 0 sees; expected a file system that all share"
            )
        return _train(config, workdir)


def _train(config: ConfigDict, workdir: Path) -> dict[str, dict[str, float]]:
    stages = configs.stages_of(config)
    folders = folders_of(config, workdir)
    results = {name: _finished(folder) for name, folder in folders.items()}
    pending = {name: stage for name, stage in stages.items() if results[name] is None}
    with listed_once():
        experiments = _build(pending, folders, workdir)
        if experiments:
            described = _describe_data(experiments)
            _print_overview(experiments, "--config.STAGE." if "stages" in config else "--config.")
    if distributed.is_main():
        remove_leftovers(workdir, config)
    _write(workdir / CONFIG, configs.to_json(config))
    for name, folder in folders.items():
        if results[name] is not None:
            distributed.print_once(f"{name}: finished before, skipped")
            _warn_of_change(name, stages[name], folder)
            continue
        _write(folder / DATA, described[name])
        results[name] = _run(experiments.pop(name))
        if experiments:
            gc.collect()  # frees the arrays of this stage, which reference cycles hold, before the next one starts
        _write(folder / RESULT, json.dumps(results[name], indent=1))
        preemption.exit_if_preempted()
    if distributed.is_main():
        _report(workdir)
        _tell_retries()
    return results


def _tell_retries() -> None:
    """Says how many requests to a bucket had to be made again, if any."""
    if counts := bucket_retries.RETRIES.counts():
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
        print(f"requests to the bucket that were made again: {sum(counts.values())} ({reasons})", flush=True)


def _warn_of_change(name: str, config: ConfigDict, folder: Path) -> None:
    if not distributed.is_main() or config.data.source in local_files.BUILT_IN:  # which never change
        return
    if change := changed_since(config.data, folder):
        message = "%s was trained on other data than there are now (%s); to train on these, choose another --workdir"
        logging.getLogger("beit_jax").warning(message, name, printable(change))


def _finished(folder: Path) -> dict[str, float] | None:
    """The last evaluation of a run that has ended; every process sees what the main one sees."""
    return json.loads(distributed.broadcast_from_main(json.dumps(read_result(folder))))


def _build(stages: Mapping[str, ConfigDict], folders: Mapping[str, Path], workdir: Path) -> dict[str, Any]:
    """The experiment of every stage that has not run, each checked before the first one starts."""
    if not stages:
        return {}
    from beit_jax.experiment import Experiment

    _keep_programs(workdir / "compiled")
    stages = foreign_weights.import_sources(stages, folders, workdir)
    experiments: dict[str, Experiment] = {}
    for name, stage in stages.items():
        in_recipe = name if folders[name] != workdir else ""
        pending = {f"stage:{earlier}": experiment for earlier, experiment in experiments.items()}
        with _named(in_recipe):
            experiments[name] = Experiment.build(stage, folders[name], pending, in_recipe)
            experiments[name].check_memory()
    return experiments


def _keep_programs(folder: Path) -> None:
    """Keeps compiled programs with the run, unless the user keeps them elsewhere: a continued run starts at once."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    # Stages of a recipe often share programs that compile in less than JAX's limit of a second.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    compilation_cache.reset_cache()  # where a config has compiled something, JAX has decided that there is none


def _describe_data(experiments: Mapping[str, Any]) -> dict[str, str]:
    """The contents of `data.json` of each stage.

    Raises:
      UserError: not all processes see the same images, or compute attention in the same way.
    """
    from beit_jax.experiment_splits import describe_splits

    seen: dict[str, str] = {}
    described = {}
    for name, experiment in experiments.items():
        data = experiment.config.data
        source = json.dumps([data[key] for key in ("source", "data_dir", "split", "eval_split")])
        if source not in seen:
            seen[source] = json.dumps(describe_splits(data), indent=1)
        described[name] = seen[source]
    agreement.check_agreement({f"images of {name}": text for name, text in described.items()} | _attention(experiments))
    return described


def _attention(experiments: Mapping[str, Any]) -> dict[str, str]:
    """What computes attention in each stage, which on GPUs a trial decides in every process."""
    from beit_jax.tasks.device_choices import chosen_by_device

    sections = {name: experiment.config.get("model", {}) for name, experiment in experiments.items()}
    return {
        f"model.attention of {name}": chosen_by_device(section, experiments[name].mesh.devices.flat[0])["attention"]
        for name, section in sections.items()
        if "attention" in section
    }


def _print_overview(experiments: Mapping[str, Any], prefix: str) -> None:
    from beit_jax.machine import find_machine
    from beit_jax.overview import describe_stages

    machine = find_machine()  # with the other processes
    if distributed.is_main():
        print(describe_stages(experiments, machine, prefix), flush=True)


def _run(experiment: Any) -> dict[str, float]:
    from beit_jax.training import loop, memory_advice, memory_check

    with _named(experiment.stage), memory_check.explained(lambda: memory_advice.halve(experiment)):
        return loop.train(experiment)


@contextlib.contextmanager
def _named(stage: str) -> Iterator[None]:
    """Puts the name of a recipe's stage in front of the message of an error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"stage {stage}: {error}" if stage else str(error)) from error


def _write(file: Path, text: str) -> None:
    """Writes a file of the run, from one process."""
    if not distributed.is_main():
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text + "\n")
    except OSError as error:
        raise UserError(f"--workdir={file.parent} cannot be written: {error}; choose another folder") from error


def _report(workdir: Path) -> None:
    from beit_jax.visualize import report

    try:
        print(report.write_report(workdir), flush=True)
    except (OSError, BucketError) as error:
        logging.getLogger("beit_jax").warning(
            "the report cannot be written (%s); the run is complete, and the command python -m beit_jax.visualize "
            "report %s --out PAGE writes it elsewhere",
            error,
            workdir,
        )


if __name__ == "__main__":
    preemption.handle_signals()
    command.run(main)
