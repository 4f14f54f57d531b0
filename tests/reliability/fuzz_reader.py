"""Fuzzes what reads foreign checkpoints: files of PyTorch, their pickles, and the settings beside the weights.

    pip install atheris && python tests/reliability/fuzz_reader.py --minutes 60      guided by the code that is covered
    python tests/reliability/fuzz_reader.py --minutes 2 --blind                      random changes, without atheris

The first byte of an input chooses what is read: a file as it is, a pickle in a sound archive or a sound plain file, or
settings. Every input must give a value or a message of one line, in little time and memory. An input that does not is
written to `--folder`, where the inputs that reach new code are kept, too: the next run starts from them.
"""

import argparse
import collections
import io
import json
import pickle
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

KINDS = (
    *("archive or plain file", "pickle in an archive", "pickle in a plain file"),
    *("pickle in a plain file with one storage", "settings"),
)
LONGEST = 1 << 16  # bytes of an input
SLOWEST = 10.0  # seconds for one input, on a machine that does other work too
MOST_MEMORY = 1 << 29  # bytes for one input


class Named:
    """Pickles itself as a name, and if there are arguments, as a call of it."""

    def __init__(self, module: str, name: str, *arguments: Any):
        self.module, self.name, self.arguments = module, name, arguments


class Pid:
    """Pickles itself as a persistent id."""

    def __init__(self, *pid: Any):
        self.pid = pid


class Writer(pickle._Pickler):
    """Writes names that need not exist here, in Python alone so that every opcode can be chosen."""

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        """One value."""
        if type(value) is Named and not value.arguments:
            self.write(f"c{value.module}\n{value.name}\n".encode())
        elif type(value) is Named:
            self.save(Named(value.module, value.name))
            self.save(value.arguments)
            self.write(b"R")
        elif type(value) is Pid:
            self.save(value.pid)
            self.write(b"Q")
        else:
            super().save(value, save_persistent_id)


def pickled(value: Any, protocol: int = 2) -> bytes:
    """A pickle of plain values, `Named` and `Pid`."""
    file = io.BytesIO()
    Writer(file, protocol).dump(value)
    return file.getvalue()


def tensor(key: str, shape: tuple[int, ...], strides: tuple[int, ...], count: int, kind: str = "FloatStorage") -> Named:
    """A tensor as PyTorch pickles it."""
    storage = Pid("storage", Named("torch", kind), key, "cpu", count)
    hooks = Named("collections", "OrderedDict", ())
    return Named("torch._utils", "_rebuild_tensor_v2", storage, 0, shape, strides, False, hooks)


def archive(pickle_: bytes, storages: dict[str, bytes]) -> bytes:
    """A file in PyTorch's present format."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("w/data.pkl", pickle_)
        members.writestr("w/byteorder", "little")
        for key, values in storages.items():
            members.writestr(f"w/data/{key}", values)
    return file.getvalue()


def plain(pickle_: bytes, storages: dict[str, tuple[int, bytes]], order: bool = True) -> bytes:
    """A file in PyTorch's older format; `storages` has the number of values and their bytes."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": order})
    stored = b"".join(struct.pack("<q", count) + values for count, values in storages.values())
    return b"".join(map(pickled, head)) + pickle_ + pickled(list(storages)) + stored


VALUES = np.arange(4, dtype=np.float32).tobytes()
CONTENTS = (
    {"model": {"a.weight": tensor("0", (2, 2), (2, 1), 4), "b": tensor("1", (4,), (1,), 4, "IntStorage")}, "epoch": 1},
    {"model": {"a": Named("torch._utils", "_rebuild_parameter", tensor("0", (4,), (1,), 4), True, {})}, "args": [1.5]},
    collections.OrderedDict(a=tensor("0", (1, 4), (4, 1), 4), b={1, "x"}, c=(True, None, b"x", "y" * 300, 1 << 80)),
    Named("argparse", "Namespace", "x"),
)
SETTINGS: dict[str, Any] = {
    **dict(model_type="beit", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128),
    **dict(hidden_act="gelu", image_size=16, patch_size=4, num_channels=3, layer_norm_eps=1e-12, drop_path_rate=0.1),
    **dict(
        use_relative_position_bias=True, use_mean_pooling=True, layer_scale_init_value=0.1, out_indices=[0, 0, 1, 1]
    ),
    **dict(id2label={"0": "a", "1": "b", "2": "c"}, use_absolute_position_embeddings=False),
}
PREPROCESSOR = dict(size={"height": 18, "width": 18}, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3)
PREPROCESSOR |= dict(do_resize=True, do_center_crop=True, do_normalize=True, crop_size={"height": 16, "width": 16})
TIMM = dict(model_args=dict(embed_dim=32, depth=2, num_heads=2), label_names=["a", "b", "c"])
TIMM |= dict(
    pretrained_cfg=dict(crop_pct=0.9, interpolation="bicubic", mean=[0.5] * 3, std=[0.5] * 3, crop_mode="center")
)


def seeds() -> list[bytes]:
    """Sound inputs of each kind."""
    pickles = [pickled(content, protocol) for content in CONTENTS for protocol in (0, 2, 4)]
    whole = [archive(pickles[1], {"0": VALUES, "1": VALUES}), plain(pickles[1], {"0": (4, VALUES), "1": (4, VALUES)})]
    pairs = {"hf": [SETTINGS, PREPROCESSOR], "unilm": [TIMM, {}]}
    settings = [json.dumps([*pair, shapes()[layout]]).encode() for layout, pair in pairs.items()]
    settings.append(json.dumps([{}, {}, shapes()["unilm"]]).encode())
    kinds = (whole, pickles, pickles[:3], pickles[3:9], settings)
    return [bytes([kind]) + data for kind, inputs in enumerate(kinds) for data in inputs]


def shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the tensors of a classifier, for each layout that has settings."""
    block, heads = {"attention.attention.relative_position_bias.relative_position_bias_table": (52, 2)}, {}
    block |= {"output.dense.weight": (32, 128), "lambda_1": (32,)}
    hf = {f"beit.encoder.layer.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
    hf |= {"beit.embeddings.cls_token": (1, 1, 32), "beit.embeddings.patch_embeddings.projection.weight": (32, 3, 4, 4)}
    heads["hf"] = hf | {"classifier.weight": (3, 32), "beit.pooler.layernorm.weight": (32,)}
    unilm = {f"blocks.{i}.attn.relative_position_bias_table": (52, 2) for i in range(2)}
    unilm |= {"cls_token": (1, 1, 32), "patch_embed.proj.weight": (32, 3, 4, 4)}
    return heads | {"unilm": unilm | {"head.weight": (3, 32), "fc_norm.weight": (32,)}}


def reader() -> Callable[[bytes], str]:
    """The function that reads an input, and says what came of it; anything but a `UserError` is a fault."""
    from beit_jax.convert import detect, files, settings_limits, state_dicts, torch_reader
    from beit_jax.errors import UserError

    def read_file(data: bytes) -> None:
        said = state_dicts.StateDict({}, {}, [])
        try:
            tensors = torch_reader.read_named(io.BytesIO(data), lambda content: state_dicts.choose_nest(content, said))
            state_dicts.named_as_published(tensors, Path("x"))
        except torch_reader.REFUSALS as error:
            raise UserError(str(error)) from error
        held = sum(values.nbytes for values in tensors.values())
        assert held <= (64 << 20) + 4 * len(data), f"{held} bytes of arrays"

    def read_settings(data: bytes) -> None:
        try:
            parts = settings_limits.parse(data)
        except ValueError as error:
            raise UserError(str(error).splitlines()[0]) from error
        if not (isinstance(parts, list) and len(parts) == 3 and all(isinstance(part, dict) for part in parts)):
            return
        settings, preprocessor, named = parts
        if not all(_is_shape(shape) and name.isprintable() for name, shape in named.items()):
            return
        state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in named.items()}
        layout = files._layout(state, settings, Path("x"))
        settings_limits.check_settings(settings, preprocessor, {name: state[name].shape for name in state}, "x")
        detect.detect_config(files.Files(state, layout, settings, preprocessor, {}, {}, []), "x")

    stored = dict.fromkeys(("0", "1"), (4, VALUES))
    functions = (
        read_file,
        lambda data: read_file(archive(data, {key: values for key, (_, values) in stored.items()})),
        lambda data: read_file(plain(data, stored)),
        lambda data: read_file(plain(data, {"0": stored["0"]})),
        read_settings,
    )

    def check_message(error: UserError) -> None:
        assert all(line.isprintable() and len(line) < 5000 for line in error.lines), str(error)[:300]

    def read(data: bytes) -> str:
        try:
            functions[data[0] % len(functions)](data[1:]) if data else None
        except UserError as error:
            check_message(error)
            return "refused"
        return "read"

    return read


def _is_shape(value: Any) -> bool:
    """Whether tensors of a file may have this shape: their values are in the file."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= 1 << 20 for n in value) and len(value) < 9


def timed(read: Callable[[bytes], str], data: bytes) -> str:
    """Reads an input, and compares time and memory with the limits."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = read(data)
    seconds = time.process_time() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert seconds < SLOWEST, f"{seconds:.1f} seconds"
    assert memory < MOST_MEMORY, f"{memory >> 20} MiB"
    return outcome


def mutated(rng: random.Random, corpus: list[bytes]) -> bytes:
    """A random change of an input: bytes, numbers, pieces that are removed, repeated or taken from another input."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        start = rng.randrange(1, len(data)) if len(data) > 1 else 1
        end = min(start + rng.choice((1, 2, 4, 8, 40)), len(data))
        other = rng.choice(corpus)
        piece = rng.randrange(len(other))
        data[start:end] = rng.choice(
            (
                rng.randbytes(end - start),
                b"",
                bytes(data[start:end]) * rng.choice((2, 3, 50)),
                other[piece : piece + 40],
                rng.choice((b"\xff", b"\0", b"-", b"9", b"[", b"(", b"1e999")) * rng.choice((1, 4, 8)),
                struct.pack(rng.choice("<>") + rng.choice("iqd"), rng.choice((-1, 0, 1, 1 << 30))),
            )
        )
    return bytes(data[:LONGEST])


def fuzz_blindly(seconds: float, seed: int, read: Callable[[bytes], str]) -> collections.Counter[str]:
    """Reads changes of the sound inputs for some time; counts what came of them."""
    rng, corpus, outcomes = random.Random(seed), seeds(), collections.Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(rng, corpus)
        try:
            outcomes[timed(read, data)] += 1
        except Exception as error:
            raise AssertionError(f"the input {data!r} of {KINDS[data[0] % len(KINDS)]} is a fault") from error
    return outcomes


def fuzz_guided(minutes: float, folder: Path) -> None:
    """Lets libFuzzer look for inputs that reach new code. It prints executions and faults, and ends the process."""
    import atheris

    import beit_jax.tasks  # noqa: F401 (only the code that reads files is to guide, which is imported below)

    with atheris.instrument_imports(include=["pickletools", "beit_jax"]):
        read = reader()
    kept = folder / "corpus"
    kept.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds()):
        (kept / f"seed{number}").write_bytes(data)
    limits = (f"-max_total_time={round(60 * minutes)}", f"-max_len={LONGEST}", "-timeout=30", "-rss_limit_mb=3000")
    atheris.Setup(
        [sys.argv[0], *limits, "-print_final_stats=1", f"-artifact_prefix={folder}/", str(kept)],
        lambda data: timed(read, data) and None,
    )
    atheris.Fuzz()


def main() -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fuzz_reader")
    parser.add_argument("--blind", action="store_true", help="random changes; atheris need not be installed")
    parser.add_argument("--seed", type=int, default=0, help="of --blind")
    parser.add_argument("--input", type=Path, help="read one input again, such as a fault that was found")
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    if args.input:
        print(timed(reader(), args.input.read_bytes()))
    elif args.blind:
        print(dict(fuzz_blindly(60 * args.minutes, args.seed, reader())))
    else:
        fuzz_guided(args.minutes, args.folder)


if __name__ == "__main__":
    main()
