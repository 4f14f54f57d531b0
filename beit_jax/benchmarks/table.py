"""The table of speeds in docs/benchmarks.md: each row measured in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from beit_jax import cli

COLUMNS = ("images/s", "ms a step", "TFLOP/s", "MFU", "peak GiB", "compiled in s", "beside", "ours over theirs")
PRETRAIN = "configs/pretrain.py:variant="
BASELINES = ("torch", "torch_compiled", "timm", "timm_compiled")  # of --vs; the first two are transformers'

# What each row measures, and the arguments of the benchmark that it stands for.
ROWS = {
    "gpu": (
        ("B/16, tokens given", [f"{PRETRAIN}B/16", "--tokens_given", "--config.batch_size=256"]),
        ("B/16, tokens computed", [f"{PRETRAIN}B/16", "--config.batch_size=256"]),
        *(
            (f"B/16 beside {peer}", [f"{PRETRAIN}B/16", f"--vs={peer}", "--config.batch_size=256"])
            for peer in BASELINES
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
                f"{variant}, batch {batch}, logits of {masked} patches, beside {peer}",
                [
                    f"{PRETRAIN}{variant}",
                    f"--config.batch_size={batch}",
                    f"--config.num_masked={masked}",
                    f"--vs={peer}",
                    "--steps=10",
                ],
            )
            for peer, variant, batch, masked in (
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
    parser.add_argument("rows", choices=sorted(ROWS), help="what to measure, for which kind of device")
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON object at the end")
    settings = parser.parse_args(argv)
    found = []
    print("\n".join(_heading()), flush=True)
    for name, arguments in ROWS[settings.rows]:
        found.append({"row": name, "arguments": arguments, **_measured(settings.rows, arguments)})
        print(_line(found[-1]), flush=True)
    if settings.json:
        print(json.dumps({"rows": found}))


def _measured(rows: str, arguments: Sequence[str]) -> dict:
    """The figures of a row, or the `error` that it ended with."""
    command = [sys.executable, "-m", "beit_jax.benchmark", "--json", f"--config={arguments[0]}", *arguments[1:]]
    platform = {"JAX_PLATFORMS": "cpu"} if rows == "cpu" else {}
    done = subprocess.run(command, env={**os.environ, **platform}, capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def _heading() -> Iterator[str]:
    yield f"| row | {' | '.join(COLUMNS)} |"
    yield f"| --- |{' --- |' * len(COLUMNS)}"


def _line(found: dict) -> str:
    """A row in Markdown; "not measured" and why, where it failed."""
    if "error" in found:
        return f"| {found['row']} | not measured: {found['error'].replace('|', '/')} |{' |' * (len(COLUMNS) - 1)}"
    cells = [
        f"{found['images_per_second']:,.1f}",
        f"{found['step_ms']:,.1f}",
        f"{found['tflops']:.3g}",
        "not known" if found["mfu"] is None else f"{found['mfu']:.1%}",
        f"{found['peak_bytes'] / 2**30:.2f}",
        f"{found['compile_seconds']:.1f}",
        f"{found['peer']['images_per_second']:,.1f} images/s, {found['peer']['name']}" if "vs" in found else "",
        f"{found['vs']:.2f}" if "vs" in found else "",
    ]
    return f"| {found['row']} | {' | '.join(cells)} |"
