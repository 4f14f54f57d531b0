"""Trains one config, or the stages of a recipe one after the other.

  python -m beit_jax.train --config configs/quickstart.py --workdir runs/quickstart
  python -m beit_jax.train --config configs/pretrain.py:variant=L/16 --workdir runs/large --config.batch_size=1024

Run the same command again to continue after a stop of any kind; finished stages are skipped. Each run writes
checkpoints/, metrics.jsonl, tensorboard/, pictures/, config.json and, at its end, result.json into its folder.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from beit_jax import command_line
from beit_jax import config as configs
from beit_jax.errors import UserError


def main(argv: Sequence[str]) -> None:
    """The door; see the module's docstring."""
    values = flags.FlagValues()
    flags.DEFINE_string("config", "", "Config file, with arguments: FILE[:name=value,...].", flag_values=values)
    flags.DEFINE_string("workdir", "", "Folder of the run; made where it does not exist.", flag_values=values)
    command_line.print_help(argv, f"{__doc__}\nAny key of the config: --config.key=value\n", values)
    path, rest = command_line.take(argv, "config")
    if not path:
        raise UserError("--config is missing; expected a file such as --config=configs/quickstart.py")
    config = configs.load(path)
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    command_line.parse(rest, values, config)
    if not values.workdir:
        raise UserError("--workdir is missing; expected the folder of the run, such as --workdir=runs/quickstart")
    train(config, Path(values.workdir))


def train(config: ConfigDict, workdir: Path) -> dict[str, dict[str, float]]:
    """Runs a config or a recipe in `workdir`; what is finished already is not done again.

    Returns:
      The last evaluation of each stage; a config without stages is one stage called after its task.
    """
    from beit_jax.validate import validate

    validate(config)
    stages = config.get("stages", ())
    runs = {name: (config[name], workdir / name) for name in stages} or {config.task: (config, workdir)}
    _claim(workdir, config)
    results = {}
    for name, (stage, run) in runs.items():
        finished = run / "result.json"
        if finished.exists():
            results[name] = json.loads(finished.read_text(encoding="utf-8"))
            print(f"{name}: finished before, skipped", flush=True)
            continue
        results[name] = _run_stage(_resolve(stage, workdir), run, workdir / "compiled")
        _write(finished, json.dumps(results[name], indent=1))
    _report(workdir)
    return results


def _run_stage(config: ConfigDict, run: Path, compiled: Path) -> dict[str, float]:
    import jax

    from beit_jax import tasks
    from beit_jax.data import pipeline
    from beit_jax.training import loop

    if not jax.config.jax_compilation_cache_dir:
        # Compiled programs are kept with the run: a continued run starts at once.
        jax.config.update("jax_compilation_cache_dir", str(compiled.absolute()))
    info = pipeline.info(config.data, config.data.split)
    if config.task == "classify" and not config.model.num_classes:
        config.model.num_classes = info.num_classes
    processes = dict(process_index=jax.process_index(), process_count=jax.process_count())
    examples = config.data.labels_per_class * info.num_classes or info.num_examples
    steps_per_epoch = examples // config.batch_size
    if not steps_per_epoch:
        raise UserError(
            f"{examples} training examples do not fill one batch of {config.batch_size}; lower batch_size, or raise "
            "data.labels_per_class"
        )
    eval_set = pipeline.make_eval(config.data, batch_size=config.batch_size, **processes)

    def make_stream(step: int) -> pipeline.TrainStream:
        return pipeline.make_train(
            config.data, seed=config.seed, batch_size=config.batch_size, start_step=step, **processes
        )

    return loop.train(
        config,
        tasks.create(config),
        run,
        make_stream,
        eval_set,
        total_steps=config.steps or round(config.epochs * steps_per_epoch),
        warmup_steps=config.optimizer.warmup_steps or round(config.optimizer.warmup_epochs * steps_per_epoch),
    )


def _resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Puts the folders of the stages in the place of their names."""
    config = config.copy_and_resolve_references()
    for section in (config, config.get("tokenizer", {})):
        scheme, _, stage = section.get("init_from", "").partition(":")
        if scheme == "stage":
            section.init_from = str(workdir / stage)
    return config


def _claim(workdir: Path, config: ConfigDict) -> None:
    """Writes the config into the workdir, or checks it against the one that is there.

    Raises:
      UserError: the workdir holds a run of another config.
    """
    file = workdir / "config.json"
    if file.exists():
        there, now = configs.flatten(configs.from_json(file.read_text(encoding="utf-8"))), configs.flatten(config)
        differing = sorted(key for key in there.keys() | now.keys() if there.get(key) != now.get(key))
        differing = [key for key in differing if not set(key.split(".")) & set(configs.FREE_KEYS)]
        if differing:
            key = differing[0]
            raise UserError(
                f"{workdir} holds a run of another config: {key} is {there.get(key)!r} there and {now.get(key)!r} now"
                f"{f' (and {len(differing) - 1} more keys differ)' if len(differing) > 1 else ''}; choose another "
                "--workdir, or the config of that run"
            )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _write(file, configs.to_json(config))
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error}; choose another folder") from error


def _write(file: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, file)


def _report(workdir: Path) -> None:
    from beit_jax.visualize import report

    print(report.write(workdir), flush=True)


if __name__ == "__main__":
    command_line.run(main)
