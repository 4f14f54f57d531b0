"""The table of speeds in docs/benchmarks.md: each row measured in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from beit_jax import cli

COLUMNS = ("images/s", "ms a step", "TFLOP/s", "MFU", "peak GiB", "compiled in s", "baseline", "ours over baseline")
PRETRAIN = "configs/pretrain.py:variant="
BASELINES = ("torch", "torch_compiled", "timm", "timm_compiled")  # of --vs; the first two are transformers'

# What each row measures, and the arguments of the benchmark that it stands for.
ROWS = {
    "gpu": (
        ("B/16, tokens given", [f"{PRETRAIN}B/16", "--tokens_given", "--config.batch_size=256"]),
        ("B/16, tokens computed", [f"{PRETRAIN}B/16", "--config.batch_size=256"]),
        *(
            (f"B/16, baseline {baseline}", [f"{PRETRAIN}B/16", f"--vs={baseline}", "--config.batch_size=256"])
            for baseline in BASELINES
        ),
        *(
            (
                f"L/16, tokens computed, remat {remat}",
                [f"{PRETRAIN}L/16", "--config.batch_size=128", f"--config.model.remat={remat}"],
            )
            for remat in ("none", "dots_with_no_batch_dims_saveable", "full")
        ),
        ("S/16, tokens given", [f"{PRETRAIN}S/16", "--tokens_given", "--config.batch_size=512"]),
        ("B/16 of 24 blocks, tokens given", [f"{PRETRAIN}768x24x12/16", "--tokens_given", "--config.batch_size=128"]),
    ),
    "cpu": (
        *(
            (
                f"{variant}, batch {batch}, logits of {masked} patches, baseline {baseline}",
                [
                    f"{PRETRAIN}{variant}",
                    f"--config.batch_size={batch}",
                    f"--config.num_masked={masked}",
                    f"--vs={baseline}",
                    "--steps=10",
                ],
            )
            for baseline, variant, batch, masked in (
                ("torch", "Ti/16", 16, 196),
                ("torch", "Ti/16", 16, 75),
                ("torch", "S/16", 8, 196),
                ("torch", "B/16", 8, 196),
                ("torch", "B/16", 8, 75),
            )
        ),
        ("Ti/16, batch 16, tokens given", [f"{PRETRAIN}Ti/16", "--tokens_given", "--config.batch_size=16"]),
        ("Ti/16 of 24 blocks", [f"{PRETRAIN}192x24x3/16", "--tokens_given", "--config.batch_size=16", "--steps=5"]),
    ),
}


def main(argv: Sequence[str]) -> None:
    """`python -m beit_jax.benchmark table`, with the arguments behind that name."""
    parser = cli.Parser(prog="python -m beit_jax.benchmark table", description=__doc__)
    parser.add_argument("device", choices=sorted(ROWS), help="kind of device, which has rows of its own")
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON object at the end")
    settings = parser.parse_args(argv)
    rows = []
    print("\n".join(_heading()), flush=True)
    for name, arguments in ROWS[settings.device]:
        rows.append({"row": name, "arguments": arguments, **_measure_row(settings.device, arguments)})
        print(_line(rows[-1]), flush=True)
    if settings.json:
        print(json.dumps({"rows": rows}))


def _measure_row(device: str, arguments: Sequence[str]) -> dict:
    """The figures of a row, or the `error` that it ended with."""
    command = [sys.executable, "-m", "beit_jax.benchmark", "--json", f"--config={arguments[0]}", *arguments[1:]]
    platform = {"JAX_PLATFORMS": "cpu"} if device == "cpu" else {}
    done = subprocess.run(command, env={**os.environ, **platform}, capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def _heading() -> Iterator[str]:
    yield f"| row | {' | '.join(COLUMNS)} |"
    yield f"| --- |{' --- |' * len(COLUMNS)}"


def _line(figures: dict) -> str:
    """A row in Markdown; of one that failed, "not measured" and the reason."""
    if "error" in figures:
        return f"| {figures['row']} | not measured: {figures['error'].replace('|', '/')} |{' |' * (len(COLUMNS) - 1)}"
    baseline = figures.get("baseline")
    cells = [
        f"{figures['images_per_second']:,.1f}",
        f"{figures['step_ms']:,.1f}",
        f"{figures['tflops']:.3g}",
        "not known" if figures["mfu"] is None else f"{figures['mfu']:.1%}",
        f"{figures['peak_bytes'] / 2**30:.2f}",
        f"{figures['compile_seconds']:.1f}",
        f"{baseline['images_per_second']:,.1f} images/s, {baseline['name']}" if baseline else "",
        f"{figures['ours_over_baseline']:.2f}" if baseline else "",
    ]
    return f"| {figures['row']} | {' | '.join(cells)} |"
