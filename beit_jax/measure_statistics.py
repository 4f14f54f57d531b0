"""Measures mean and standard deviation of the pixels of each channel, and prints them as a flag.

  python -m beit_jax.measure_statistics --config configs/pretrain.py:data=npz:bands.npz,channels=13 \\
      --config.data.max_value=10000

The images are those of the training split of the config, as they are stored: neither cropped nor resized. Every pixel
counts alike. Pixels are numbers in the files over data.max_value, as in training. One image is in memory at a time.
"""

import argparse
from collections.abc import Sequence

from ml_collections import ConfigDict

from beit_jax import cli, command, extras, local_files
from beit_jax import config as configs
from beit_jax.errors import Mistakes

DIGITS = 5  # that are printed


def main(argv: Sequence[str]) -> None:
    """The command; see the module's docstring."""
    parser = cli.config_parser("beit_jax.measure_statistics", __doc__, "configs/pretrain.py")
    parser.add_argument("--stage", default="", help="which stage of a recipe")
    args, config = cli.parse_with_config(parser, argv, _check_command)
    from beit_jax.data import pixel_moments
    from beit_jax.runtime.progress import progress_bar

    chosen = configs.fill_in_sizes(configs.stage_of(config, args.stage))
    total = pixel_moments.count(chosen.data)
    with progress_bar(total, 0) as bar:
        mean, std = pixel_moments.measure(chosen.data, bar.update)
    pair = ", ".join(f"({', '.join(f'{value:.{DIGITS}g}' for value in values)},)" for values in (mean, std))
    prefix = f"config.{args.stage}." if args.stage else "config."
    print(f"--{prefix}data.statistics='{pair}'")


def _check_command(args: argparse.Namespace, config: ConfigDict | None) -> None:
    mistakes = Mistakes()
    with mistakes.collected():
        extras.check_installed("tensorflow", "tensorflow_datasets", "tqdm")
    with mistakes.collected():
        if config is not None:
            local_files.check_data(configs.stage_of(config, args.stage), ("split",))
    mistakes.raise_all()


if __name__ == "__main__":
    command.run(main)
