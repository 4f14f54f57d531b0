"""Speed, memory and communication of this machine, or of one that is not there.

  python -m beit_jax.benchmark --config configs/pretrain.py --config.batch_size=256
      the training step on made-up batches: images/s, MFU, memory; --vs=torch runs transformers' BEiT in turns with it
  python -m beit_jax.benchmark table gpu
      every row of the table of docs/benchmarks.md, each in a process of its own
  python -m beit_jax.benchmark --config configs/pretrain.py:variant=L/16 --compile_only --devices=8 --config.mesh.fsdp=8
      compiles the step for simulated devices: bytes on each device, bytes moved by each kind of collective
  python -m beit_jax.benchmark masks
      block masks on one core: microseconds a mask
  python -m beit_jax.benchmark input --vs pil
      the input of pre-training on one core: milliseconds an image of each op, beside the official transform in Pillow

No checkpoints are read, and of images none but with --real. With --json the last line of standard output is one JSON
object.
"""

import os
from collections.abc import Sequence

from absl import flags

from beit_jax import cli
from beit_jax import config as configs
from beit_jax.benchmarks import input_pipeline, masks, table
from beit_jax.errors import UserError

NAMED = {"masks": masks.main, "input": input_pipeline.main, "table": table.main}


def main(argv: Sequence[str]) -> None:
    """The door; see the module's docstring."""
    if argv and not argv[0].startswith("-"):
        if argv[0] not in NAMED:
            raise UserError(f"found the benchmark {argv[0]!r}, expected {', '.join(NAMED)}, or --config=FILE")
        return NAMED[argv[0]](argv[1:])
    values = _flags()
    flags.DEFINE_string("config", "", "Config file, with arguments: FILE[:name=value,...].", flag_values=values)
    cli.print_help(argv, f"{__doc__}\nAny key of the config: --config.key=value\n", values)
    path, rest = cli.take(argv, "config")
    if not path:
        raise UserError(f"--config is missing; expected a file such as configs/pretrain.py, or {', '.join(NAMED)}")
    config, values = configs.load(path), _flags()
    cli.parse(rest, values, config)
    if values.compile_only:
        if values.vs or values.tokens_given or values.real or values["steps"].present:
            raise UserError("--compile_only runs no step; leave out --vs, --tokens_given, --real and --steps")
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "1"  # before XLA is loaded: one of its warnings is looked for
        from beit_jax.benchmarks import compiled

        return compiled.run(config, values.stage, values.devices, values.json)
    if values["devices"].present:
        raise UserError(
            "--devices simulates devices, which only --compile_only does; a measurement takes all there are"
        )
    if values.vs:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves memory to the other library
    from beit_jax.benchmarks import step

    return step.run(config, values.stage, values.steps, values.vs, values.tokens_given, values.real, values.json)


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_bool("json", False, "Print one JSON object as the last line.", flag_values=values)
    flags.DEFINE_string("stage", "", "Which stage of a recipe.", flag_values=values)
    flags.DEFINE_integer("steps", 20, "Steps to time, after the first two.", 1, flag_values=values)
    flags.DEFINE_enum("vs", None, table.PEERS, "Library whose BEiT runs in turns with ours.", flag_values=values)
    flags.DEFINE_bool("tokens_given", False, "Pre-train on tokens that are not computed.", flag_values=values)
    flags.DEFINE_bool("real", False, "Read batches from the config's data.", flag_values=values)
    flags.DEFINE_bool("compile_only", False, "Compile for simulated devices, run nothing.", flag_values=values)
    flags.DEFINE_integer("devices", 1, "How many devices to compile for.", 1, flag_values=values)
    return values


if __name__ == "__main__":
    cli.run(main)
