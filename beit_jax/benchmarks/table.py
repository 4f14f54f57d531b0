"""The tables of speeds in docs/benchmarks.md: each row measured, or compiled, in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from beit_jax import cli
from beit_jax.benchmarks import sweep
from beit_jax.errors import UserError

MEASURED = (
    "images/s",
    "ms a step",
    "estimate",
    "TFLOP/s",
    "MFU",
    "peak GiB",
    "compiled in s",
    "baseline",
    "ours over baseline",
)
PRETRAIN = "configs/pretrain.py:variant="
# Chips that a program is compiled for, and the batch of one device that suits them.
COMPILED_FOR = {"v5e:2x2": 64, "v5p:2x2x1": 128, "v6e:2x2": 64, "h200": 256}
BASELINES = ("torch", "torch_compiled", "timm", "timm_compiled")  # of --vs; the first two are transformers'


def _compiled_rows() -> Iterator[tuple[str, list[str]]]:
    """Each chip with each size, tokens given and computed, with UPerNet, and two of them with BEiT v2."""
    for chip, batch in COMPILED_FOR.items():
        devices = 1 if ":" not in chip else 4
        flags = ["--compile_only", f"--chip={chip}"]
        for variant in ("Ti/16", "S/16", "B/16", "L/16"):
            size = f"--config.batch_size={devices * batch}"
            for tokens in ("given", "computed"):
                given = ["--tokens_given"] if tokens == "given" else []
                yield f"{chip}, {variant}, tokens {tokens}", [f"{PRETRAIN}{variant}", *given, size, *flags]
        size = f"--config.batch_size={devices * batch // 16}"
        yield f"{chip}, UPerNet B/16, 512 px", ["configs/segment.py", size, *flags]
        for variant in ("B/16", "L/16") if chip in ("v5e:2x2", "h200") else ():
            size = f"--config.batch_size={devices * batch}"
            yield f"{chip}, v2 {variant}, tokens given", [f"{PRETRAIN}{variant},v2", "--tokens_given", size, *flags]
            yield f"{chip}, v2 {variant}, tokens computed", [f"{PRETRAIN}{variant},v2", size, *flags]
            vqkd = ["configs/tokenizer.py:kind=vqkd,teacher=random", f"--config.model.variant={variant}"]
            yield f"{chip}, VQ-KD {variant}, teacher CLIP B/16", [*vqkd, size, *flags]


# What each row measures, and the arguments of the benchmark that it stands for.
ROWS = {
    "gpu": (
        ("B/16, tokens given", [f"{PRETRAIN}B/16", "--tokens_given", "--config.batch_size=256"]),
        ("B/16, tokens computed", [f"{PRETRAIN}B/16", "--config.batch_size=256"]),
        ("B/16, tokens given, the largest batch", [f"{PRETRAIN}B/16", "--tokens_given"]),
        (
            "B/16, tokens given, attention plain",
            [f"{PRETRAIN}B/16", "--tokens_given", "--config.batch_size=256", "--config.model.attention=plain"],
        ),
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
    "chips": tuple(_compiled_rows()),
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
    parser.add_argument(
        "device",
        choices=sorted(ROWS),
        help="cpu, gpu: measured on the device that is there, each with rows of its own; chips: compiled for chips "
        "that need not be there",
    )
    parser.add_argument("--only", metavar="TEXT", default="", help="only the rows whose name contains this text")
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON object at the end")
    settings = parser.parse_args(argv)
    chosen = [row for row in ROWS[settings.device] if settings.only in row[0]]
    if not chosen:
        raise UserError(f"no row of {settings.device} contains {settings.only!r}; leave out --only to see their names")
    rows = []
    columns, cells = (sweep.COLUMNS, sweep.cells) if settings.device == "chips" else (MEASURED, _cells)
    print("\n".join(sweep.heading("row", columns)), flush=True)
    for name, arguments in chosen:
        rows.append({"row": name, "arguments": arguments, **_measure_row(settings.device, arguments)})
        print(sweep.row(name, rows[-1], cells, columns), flush=True)
    if settings.json:
        print(json.dumps({"rows": rows}))


def _measure_row(device: str, arguments: Sequence[str]) -> dict:
    """The figures of a row, or the `error` that it ended with."""
    command = [sys.executable, "-m", "beit_jax.benchmark", "--json", f"--config={arguments[0]}", *arguments[1:]]
    platform = {"JAX_PLATFORMS": "cpu"} if device == "cpu" else {}
    done = subprocess.run(command, env={**os.environ, **platform}, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"not {'compiled' if device == 'chips' else 'measured'}: {reason}"}
    return json.loads(done.stdout.splitlines()[-1])


def _cells(figures: dict) -> list[str]:
    """The values of `MEASURED`."""
    baseline = figures.get("baseline")
    return [
        f"{figures['images_per_second']:,.1f}",
        f"{figures['step_ms']:,.1f}",
        "-" if figures.get("estimate_ms") is None else f"{figures['estimate_ms']:,.1f}",
        f"{figures['tflops']:.3g}",
        "not known" if figures["mfu"] is None else f"{figures['mfu']:.1%}",
        f"{figures['peak_bytes'] / 2**30:.2f}",
        f"{figures['compile_seconds']:.1f}",
        f"{baseline['images_per_second']:,.1f} images/s, {baseline['name']}" if baseline else "",
        f"{figures['ours_over_baseline']:.2f}" if baseline else "",
    ]
