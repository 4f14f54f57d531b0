"""Measures time and memory of reading a large file of weights, beside the libraries that wrote it.

  python tests/reliability/read_large_file.py --gigabytes 1
  python tests/reliability/read_large_file.py --gigabytes 1 --beside ../an_older_checkout

Writes random weights of a ViT to `.pth` (needs torch) and `.safetensors`, and reads each in a process of its own,
several times in turns; the file stays in the system's cache. Prints a table in Markdown: the shortest and the longest
time, the time in which a core worked, which depends less on what else the machine does, and the peak of the resident
memory above what was resident after the imports; a mapped file counts. Needs Linux.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
OURS = """
from beit_jax.convert.files import read_files
def read(path): return read_files(path).state
"""
TORCH = """
import torch
def read(path): return torch.load(path, weights_only=True)["model"]
"""
SAFETENSORS = """
from safetensors.numpy import load_file
def read(path): return load_file(path)
"""
MEASURE = """
import pathlib, sys, time
path = pathlib.Path(sys.argv[1])
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = int(pathlib.Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])
start = time.perf_counter(), time.process_time()
kept = read(path)
seconds, busy = time.perf_counter() - start[0], time.process_time() - start[1]
peak = int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(seconds, busy, (peak - before) / 1024)
"""


def weights(gigabytes: float, width: int = 1024) -> dict[str, np.ndarray]:
    """Tensors by the names of the official code, of about this many 10^9 bytes in float32."""
    random = np.random.default_rng(0)
    shapes = {"cls_token": (1, 1, width), "patch_embed.proj.weight": (width, 3, 16, 16)}
    block = {"attn.qkv.weight": (3 * width, width), "mlp.fc1.weight": (4 * width, width), "norm1.weight": (width,)}
    size = sum(4 * int(np.prod(shape)) for shape in block.values())
    for layer in range(max(round(gigabytes * 1e9 / size), 1)):
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def write(folder: Path, state: Mapping[str, np.ndarray]) -> dict[str, tuple[str, Path, Path]]:
    """Writes the files that can be written here: by the name of a reader, its code, its file and its checkout."""
    from beit_jax.convert import safetensors_file, torch_writer

    readers = {}
    plain, checked = folder / "plain.safetensors", folder / "checked.safetensors"
    from safetensors.numpy import save_file

    save_file(dict(state), plain, {"format": "pt"})
    safetensors_file.write_tensors(checked, state)
    try:
        torch_writer.save_nested(folder / "w.pth", state, "model")
    except Exception as error:
        print(f"no .pth: {error}", file=sys.stderr)
    else:
        readers["beit_jax, `.pth`"] = (OURS, folder / "w.pth", ROOT)
        readers["`torch.load(weights_only=True)`"] = (TORCH, folder / "w.pth", ROOT)
    readers["beit_jax, `.safetensors` of another library"] = (OURS, plain, ROOT)
    readers["beit_jax, `.safetensors` with checksums"] = (OURS, checked, ROOT)
    readers["`safetensors.numpy.load_file`"] = (SAFETENSORS, plain, ROOT)
    return readers


def measure(code: str, path: Path, checkout: Path) -> tuple[float, float, float]:
    """Seconds, those of them that a core worked, and MiB of memory, in a new process."""
    command = [sys.executable, "-c", code + MEASURE, str(path)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, busy, peak = map(float, done.stdout.split())
    return seconds, busy, peak


def main() -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the weights, in 10^9 bytes")
    parser.add_argument("--repeats", type=int, default=5, help="times that each file is read")
    parser.add_argument("--beside", type=Path, help="another checkout of this library, which reads the .pth too")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        readers = write(Path(folder), weights(settings.gigabytes))
        if settings.beside and "beit_jax, `.pth`" in readers:
            readers[f"{settings.beside.name}, `.pth`"] = (OURS, Path(folder) / "w.pth", settings.beside.absolute())
        found = [{name: measure(*reader) for name, reader in readers.items()} for _ in range(settings.repeats)]
    print("| reader | seconds | of a core | MiB of memory |\n| --- | --- | --- | --- |")
    for name in readers:
        seconds, busy, peaks = zip(*(row[name] for row in found))
        spans = " | ".join(f"{min(span):.2f} to {max(span):.2f}" for span in (seconds, busy))
        print(f"| {name} | {spans} | {max(peaks):,.0f} |")


if __name__ == "__main__":
    main()
