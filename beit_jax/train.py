"""Trains one config, or the stages of a recipe one after the other.

  python -m beit_jax.train --config configs/quickstart.py --workdir runs/quickstart
  python -m beit_jax.train --config configs/pretrain.py:variant=L/16 --workdir runs/large --config.batch_size=1024

Run the same command again to continue after a stop of any kind; finished stages are skipped. SIGTERM saves and ends
with status 0. Several processes, started alike, become one run (see launch/README.md). Each run writes
checkpoints/, metrics.jsonl, tensorboard/, pictures/, parameters.txt, config.json and, at its end, result.json into its
folder, and names images that could not be read in unreadable.txt.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from beit_jax import cli
from beit_jax import config as configs
from beit_jax.errors import UserError
from beit_jax.runtime import distributed, lock, preemption

RESULT = "result.json"  # of a finished run: its last evaluation


def main(argv: Sequence[str]) -> None:
    """The door; see the module's docstring."""
    values = flags.FlagValues()
    flags.DEFINE_string("config", "", "Config file, with arguments: FILE[:name=value,...].", flag_values=values)
    flags.DEFINE_string("workdir", "", "Folder of the run; made where it does not exist.", flag_values=values)
    cli.print_help(argv, f"{__doc__}\nAny key of the config: --config.key=value\n", values)
    path, rest = cli.take(argv, "config")
    if not path:
        raise UserError("--config is missing; expected a file such as --config=configs/quickstart.py")
    config = configs.load(path)
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    cli.parse(rest, values, config)
    if not values.workdir:
        raise UserError("--workdir is missing; expected the folder of the run, such as --workdir=runs/quickstart")
    workdir = cli.local_folder("workdir", values.workdir)
    distributed.start()
    try:
        train(config, workdir)
    except preemption.Preempted as stopped:
        distributed.print_once(stopped.text)
        raise


def train(config: ConfigDict, workdir: Path) -> dict[str, dict[str, float]]:
    """Runs a config or a recipe in `workdir`; what is finished already is not done again.

    Returns:
      The last evaluation of each stage; a config without stages is one stage called after its task.

    Raises:
      UserError: before anything is written where the mistake can be seen before.
    """
    from beit_jax.validate import validate

    validate(config)
    _check_owner(workdir, config)
    with lock.lock_workdir(workdir) if distributed.is_main() else contextlib.nullcontext():
        distributed.barrier("workdir")
        if not (workdir / lock.FILE).exists():
            raise UserError(
                f"--workdir={workdir} is not the folder that process 0 sees; expected a file system that all share"
            )
        return _train(config, workdir)


def _train(config: ConfigDict, workdir: Path) -> dict[str, dict[str, float]]:
    names = config.get("stages", ())
    stages = {name: (config[name], workdir / name) for name in names} or {config.task: (config, workdir)}
    results = {name: _finished(folder) for name, (_, folder) in stages.items()}
    runs = _prepare({name: stage for name, stage in stages.items() if results[name] is None}, workdir)
    _write(workdir / "config.json", configs.to_json(config))
    for name, (_, folder) in stages.items():
        if results[name] is not None:
            distributed.print_once(f"{name}: finished before, skipped")
            continue
        results[name] = _run(runs[name])
        _write(folder / RESULT, json.dumps(results[name], indent=1))
        preemption.exit_if_preempted()
    if distributed.is_main():
        _report(workdir)
    return results


def _finished(folder: Path) -> dict[str, float] | None:
    """The last evaluation of a run that has ended."""
    try:
        found = (folder / RESULT).read_text(encoding="utf-8") if distributed.is_main() else ""
    except FileNotFoundError:
        found = ""
    try:
        return json.loads(distributed.broadcast_from_main(found))
    except json.JSONDecodeError:
        return None


def _prepare(stages: Mapping[str, tuple[ConfigDict, Path]], workdir: Path) -> dict[str, Any]:
    """Every stage made ready before the first one starts."""
    import jax

    if not stages:
        return {}
    from beit_jax.experiment import prepare

    if not jax.config.jax_compilation_cache_dir:
        # Compiled programs are kept with the run: a continued run starts at once.
        jax.config.update("jax_compilation_cache_dir", str((workdir / "compiled").absolute()))
    runs, coming = {}, {}
    for name, (stage, folder) in stages.items():
        try:
            runs[name] = prepare(stage, folder, coming)
        except UserError as error:
            raise UserError(f"stage {name}: {error}" if folder != workdir else str(error)) from error
        coming[f"stage:{name}"] = runs[name].params
    return runs


def _run(run: Any) -> dict[str, float]:
    from beit_jax import experiment
    from beit_jax.training import loop

    more = experiment.knn(run.config, run.task)
    return loop.train(run.config, run.task, run.folder, run.stream, run.eval_set(), more, **vars(run.steps))


def _check_owner(workdir: Path, config: ConfigDict) -> None:
    """
    Raises:
      UserError: the workdir holds a run of another config.
    """
    file = workdir / "config.json"
    if not file.exists():
        return
    try:
        owner = configs.from_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} cannot be read ({error}); delete it to go on with the config given") from error
    there, now = configs.flatten(owner), configs.flatten(config)
    differing = sorted(key for key in there.keys() | now.keys() if there.get(key) != now.get(key))
    differing = [key for key in differing if not configs.is_free(key, config.get("stages", ()))]
    if differing:
        key = differing[0]
        raise UserError(
            f"{workdir} holds a run of another config: {key} is {there.get(key)!r} there and {now.get(key)!r} now"
            f"{f' (and {len(differing) - 1} more keys differ)' if len(differing) > 1 else ''}; choose another "
            "--workdir, or the config of that run"
        )


def _write(file: Path, text: str) -> None:
    """Whole or not at all, also when the power fails; from one process."""
    if not distributed.is_main():
        return
    temporary = file.with_suffix(".tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError as error:
        raise UserError(f"--workdir={file.parent} cannot be written: {error}; choose another folder") from error


def _report(workdir: Path) -> None:
    from beit_jax.visualize import report

    print(report.write(workdir), flush=True)


if __name__ == "__main__":
    preemption.handle_sigterm()
    cli.run(main)
