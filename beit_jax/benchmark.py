"""Speed, memory and communication of the devices that are there, or of simulated ones.

  python -m beit_jax.benchmark --config configs/pretrain.py --config.batch_size=256
      the training step on synthetic batches: images/s, MFU, memory; --vs=torch measures transformers' BEiT alternately;
      without a batch, on the largest that an accelerator holds, and on 8 examples for a CPU
  python -m beit_jax.benchmark table gpu
      every row of the table of docs/benchmarks.md, each in a process of its own
  python -m beit_jax.benchmark --config configs/pretrain.py:variant=L/16 --compile_only --devices=8 --config.mesh.fsdp=8
      compiles the step for simulated devices: bytes on each device, bytes moved by each kind of collective
  python -m beit_jax.benchmark --config configs/pretrain.py --config.batch_size=256 --compile_only --chip v5e:2x2
      compiles it with the compiler for a TPU or GPU, on any machine: its memory plan, an estimate of the time; --sweep
      compares settings, --largest_batch finds the largest batch that the chip holds
  python -m beit_jax.benchmark masks
      block masks on one core: microseconds a mask
  python -m beit_jax.benchmark input --vs pil
      the input of pre-training on one core: milliseconds an image of each op, beside the official transform in Pillow

No checkpoints are read, and images only with --real. With --json the last line of standard output is one JSON object.
"""

import argparse
import os
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from beit_jax import cli, command, extras, local_files
from beit_jax import config as configs
from beit_jax.benchmarks import chips, input_pipeline, masks, sweep, table
from beit_jax.benchmarks.one_core import positive_int
from beit_jax.errors import Mistakes, UserError
from beit_jax.runtime import membership

STEPS = 20
_BATCH_SIZE = re.compile(r"--config\.(\w+\.)?batch_size\b")
SUBCOMMANDS = {"masks": masks.main, "input": input_pipeline.main, "table": table.main}


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    if argv and not argv[0].startswith("-"):
        if argv[0] not in SUBCOMMANDS:
            raise UserError(f"found the benchmark {argv[0]!r}, expected {', '.join(SUBCOMMANDS)}, or --config=FILE")
        return SUBCOMMANDS[argv[0]](argv[1:])
    args, config = _parse(argv)
    if args.compile_only:
        from beit_jax.benchmarks import compiled

        return compiled.run(config, args.stage, args.chip, args.tokens_given, args.json, args.sweep, args.largest_batch)
    from beit_jax.benchmarks import step

    return step.run(
        config,
        args.stage,
        args.steps or STEPS,
        args.vs,
        args.tokens_given,
        args.real,
        args.json,
        largest=not any(_BATCH_SIZE.match(argument) for argument in argv),
    )


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, ConfigDict]:
    """Like `cli.parse_with_config`, but the flags choose the devices before the config, which may look for them."""
    parser, mistakes, config = _parser(), Mistakes(), None
    args, rest = parser.parse_known_args(argv)
    if args.help:
        cli.print_help(parser, args.config, rest)
    with mistakes.collected():
        _check_flags(args, rest)
        _choose_devices(args)
    with mistakes.collected():
        config = cli.load_config(parser, args, rest)
    with mistakes.collected():
        cli.set_keys(parser, config, rest)
    with mistakes.collected():
        if config is not None:
            _check_config(config, args.stage, args.real)
    mistakes.raise_all()
    return args, config


def _choose_devices(args: argparse.Namespace) -> None:
    if args.vs:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves memory to the other library
    if args.compile_only:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "1"  # before XLA is loaded: one of its warnings is counted
        if args.chip:
            chips.prepare_to_compile(args.chip)
        import jax

        membership.stay_alone()
        jax.config.update("jax_num_cpu_devices", args.devices or 1)


def _check_flags(args: argparse.Namespace, rest: Sequence[str]) -> None:
    mistakes = Mistakes()
    if args.compile_only and (args.vs or args.real or args.steps is not None):
        mistakes.add("--compile_only runs no step; leave out --vs, --real and --steps")
    if args.chip and not args.compile_only:
        mistakes.add(
            "--chip names a chip to compile for, which only --compile_only does; a measurement takes what is there"
        )
    if args.chip and args.devices is not None:
        mistakes.add("--devices is for simulated devices; --chip has its number in the topology, such as v5e:4x4")
    if (args.sweep or args.largest_batch) and not args.compile_only:
        mistakes.add("--sweep and --largest_batch compile and run nothing; add --compile_only")
    given = any(map(_BATCH_SIZE.match, rest))
    if args.largest_batch and given:
        mistakes.add("--largest_batch finds the batch; leave out --config.batch_size")
    if args.vs and not args.compile_only and not given:
        mistakes.add("--vs compares at one batch, which both must hold; give --config.batch_size")
    if args.largest_batch and not args.chip:
        mistakes.add("--largest_batch looks for what a chip holds; name it with --chip, such as v5e:2x2 or h200")
    with mistakes.collected():
        sweep.combinations(args.sweep)
    with mistakes.collected():
        if args.chip:
            chips.check_name(args.chip)
            extras.check_installed(chips.library_for(args.chip))
    if args.devices is not None and not args.compile_only:
        mistakes.add("--devices simulates devices, which only --compile_only does; a measurement takes all there are")
    with mistakes.collected():
        baseline = ("torch", "timm" if args.vs.startswith("timm") else "transformers") if args.vs else ()
        extras.check_installed(*baseline, *(("tensorflow", "tensorflow_datasets") if args.real else ()))
    mistakes.raise_all()


def _check_config(config: ConfigDict, stage: str, real: bool) -> None:
    mistakes, untrained = Mistakes(), configs.with_untrained_parts(config, stage)
    with mistakes.collected():
        configs.validate(untrained)
    with mistakes.collected():
        if real:
            local_files.check_data(configs.stage_of(config, stage), ("split",))
    mistakes.raise_all()


def _parser() -> cli.Parser:
    parser = cli.config_parser("beit_jax.benchmark", __doc__, "configs/pretrain.py")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--stage", metavar="NAME", default="", help="stage of a recipe")
    parser.add_argument(
        "--steps", type=positive_int, metavar="N", help=f"steps to time, after the first two (default {STEPS})"
    )
    parser.add_argument("--vs", choices=table.BASELINES, help="baseline: library whose BEiT is measured too")
    parser.add_argument(
        "--tokens_given", action="store_true", help="pre-train on tokens in the batch; the step computes none"
    )
    parser.add_argument("--real", action="store_true", help="read batches from the config's data")
    parser.add_argument("--compile_only", action="store_true", help="compile for simulated devices, and run nothing")
    parser.add_argument(
        "--chip",
        metavar="NAME",
        default="",
        help="compile for this chip: v5e:2x2 or another TPU topology, h100, h200, a100",
    )
    parser.add_argument(
        "--sweep",
        metavar="KEY=VALUES",
        nargs="+",
        default=(),
        help="compile for every combination of settings, a row each: --sweep model.unroll=1,3,12 model.remat=none,full",
    )
    parser.add_argument(
        "--largest_batch",
        action="store_true",
        help="with --chip: find the largest batch that the chip holds, and compile for it",
    )
    parser.add_argument("--devices", type=positive_int, metavar="N", help="how many devices to compile for (default 1)")
    return parser


if __name__ == "__main__":
    command.run(main)
