"""Archives and older files of PyTorch that contradict themselves, and random changes of sound ones."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hostile import FLOATS, cheap, of, refused
from reliability.fuzz_reader import VALUES, Named, archive, fuzz_blindly, pickled, plain, reader, seeds, tensor

from beit_jax.convert.state_dicts import read_torch
from beit_jax.errors import UserError


def test_archives_that_contradict_themselves(read):
    good = of(tensor("0", (4,), (1,), 4))
    np.testing.assert_array_equal(read(good)["a"], FLOATS)
    local, entry = good.index(b"PK\3\4", 4), good.index(b"PK\1\2")
    last = good.rindex(b"PK\1\2")
    end = good.index(b"PK\5\6")

    def patched(position, code, value):
        return good[:position] + struct.pack(code, value) + good[position + struct.calcsize(code) :]

    for data, message in [
        (patched(entry + 10, "<H", 8), "a compressed member"),
        (patched(entry + 8, "<H", 1), "a compressed member"),  # encrypted
        (patched(entry + 24, "<L", 1 << 30), "a compressed member"),  # two sizes in the directory
        (patched(good.index(b"PK\3\4") + 18, "<L", 5), "two sizes of w/data.pkl"),
        (patched(good.index(b"PK\3\4") + 8, "<H", 8), "contradict each other"),
        (patched(entry + 42, "<L", local), "contradict each other"),  # the position of another member
        (patched(entry + 42, "<L", 1 << 31), "ends too early"),
        (patched(last + 42, "<L", 1 << 31), "ends too early"),
        (patched(end + 10, "<H", 60_000), "not in the file"),  # members
        (patched(end + 10, "<H", 5), "not in the file"),
        (patched(end + 10, "<H", 3), "more members than it says"),
        (patched(entry + 28, "<H", 200), "damaged directory"),  # length of a name
        (patched(end + 12, "<L", 1 << 31), "not in the file"),  # length of the directory
        (patched(end + 16, "<L", 1 << 31), "not in the file"),  # its position
        (good[:end], "an archive without its end"),
        (good[:-1], "an archive without its end"),
        (good[: len(good) // 2], "an archive without its end"),
        (patched(good.index(VALUES), "<f", 7.0), "stored values 0 are damaged"),
    ]:
        with cheap():
            refused(read, data, message)


def _members(*members):
    """An archive of `(name, position of the header, bytes)`; None as position: behind the one before."""
    body, directory = b"", b""
    for name, offset, values in members:
        header = struct.pack(
            "<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(values), *[len(values)] * 2, len(name), 0
        )
        offset = len(body) if offset is None else offset
        if offset == len(body):
            body += header + name + values
        sizes = (zlib.crc32(values), len(values), len(values), len(name), 0, 0, 0, 0, 0, offset)
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, *sizes) + name
    count = len(members)
    return body + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)


def test_members_of_archives(read):
    content = (b"w/data.pkl", None, pickled({"a": tensor("0", (4,), (1,), 4)}))
    np.testing.assert_array_equal(read(_members(content, (b"w/data/0", None, VALUES)))["a"], FLOATS)
    inner = _members((b"w/data/1", None, VALUES))[: 30 + len(b"w/data/1") + len(VALUES)]
    outside = len(_members(content)) - 22 - 46 - len(b"w/data.pkl") + 30 + len(b"w/data/0")
    for members, message in [
        ([content, content], "two members w/data.pkl"),
        ([content, (b"w/data/0", None, inner), (b"w/data/1", outside, VALUES)], "members overlap"),
        ([content, (b"../../w/data/0", None, VALUES)], r"outside of its folder, \.\./\.\./w"),
        ([content, (b"/w/data/0", None, VALUES)], "outside of its folder"),
        ([content, (b"w\\data\\0", None, VALUES)], "outside of its folder"),
        ([content], "stored values 0 are missing"),
        ([content, (b"w/data/0", None, VALUES[:-1])], "stored values 0 are of an unexpected size"),
        ([content, (b"v/data.pkl", None, b"N.")], "not a PyTorch file"),
        ([(b"w/data/0", None, VALUES)], "not a PyTorch file"),
        ([content, (b"w/data/0", None, VALUES), (b"w/byteorder", None, b"big")], "big-endian"),
    ]:
        refused(read, _members(*members), message)


def test_a_zip_bomb(read):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as members:
        members.writestr("w/data.pkl", b"N" * (64 << 20) + b".")
    with cheap(memory=4 << 20):
        refused(read, file.getvalue(), "a compressed member, w/data.pkl; PyTorch does not compress")


def test_archives_of_torchscript_are_told_how_to_be_written(read):
    message = r"w.pth is an archive of TorchScript, .*torch.save\(torch.jit.load\('.*w.pth', 'cpu'\).state_dict\(\), "
    refused(read, archive(pickled(Named("__torch__.model", "VisionTransformer")), {}), message)
    file = io.BytesIO(of(tensor("0", (4,), (1,), 4)))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as members:  # as `torch.jit.save` does
        members.writestr("w/code/__torch__.py", "class VisionTransformer(Module):\n" * 9)
    refused(read, file.getvalue(), message)


def test_archives_of_64_bits(read):
    """Sizes and positions among the additional fields, as PyTorch writes them from 4 GiB on."""
    good = of(tensor("0", (4,), (1,), 4))
    end = good.index(b"PK\5\6")
    _, _, _, _, count, _, start, _ = struct.unpack("<4s4H2LH", good[end:])
    first = good.index(b"PK\1\2")
    name_end = first + 46 + len("w/data.pkl")
    size = struct.unpack_from("<L", good, first + 24)[0]
    entry = bytearray(good[first:name_end])
    entry[20:28] = b"\xff" * 8
    entry[30:32] = struct.pack("<H", 20)
    directory = bytes(entry) + struct.pack("<2H2Q", 1, 16, size, size) + good[name_end:end]
    where = start + len(directory)
    ending = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), start)
    ending += struct.pack("<4sLQL", b"PK\6\7", 0, where, 1)
    ending += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    np.testing.assert_array_equal(read(good[:start] + directory + ending)["a"], FLOATS)
    for position, value in ((32, 1 << 60), (40, 1 << 62), (48, 1 << 63)):
        damaged = bytearray(ending)
        damaged[position : position + 8] = struct.pack("<Q", value)
        with cheap():
            refused(read, good[:start] + directory + bytes(damaged), "not in the file")


def test_plain_files_that_contradict_themselves(read):
    content = pickled({"a": tensor("0", (4,), (1,), 4)})
    np.testing.assert_array_equal(read(plain(content, {"0": (4, VALUES)}))["a"], FLOATS)
    for data, message in [
        (plain(content, {}), "stored values 0 are missing"),
        (plain(content, {"0": (3, VALUES)}), "unexpected size"),
        (plain(content, {"0": (-4, VALUES)}), "unexpected size"),
        (plain(content, {"0": (4, VALUES)})[:-1], "ends within a value"),
        (plain(content, {"0": (4, VALUES), "7": (4, VALUES)}), "stored values 7 are listed"),
        (plain(content, {"0\x1b\n": (4, VALUES)}), r"stored values 0\\x1b\\n are listed"),
        (plain(content, {"0": (4, VALUES)}, order=False), "big-endian"),
        (
            plain(pickled({"a": tensor("0", (1 << 40,), (1,), 1 << 40)}), {"0": (1 << 40, VALUES)}),
            "ends within a value",
        ),
        (pickled([1]) + content, "not a PyTorch file"),
        (b"", "ends within a value"),
    ]:
        with cheap():
            refused(read, data, message)
    twice = (
        plain(content, {"0": (4, VALUES)}).replace(pickled(["0"]), pickled(["0", "0"])) + struct.pack("<q", 4) + VALUES
    )
    refused(read, twice, "stored values 0 are listed, but not once")


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    for name in ("folder.pth", "nothing.pth"):
        with pytest.raises(UserError, match="is no file"):
            read_torch(tmp_path / name)


def test_fuzzing_for_some_seconds():
    outcomes = fuzz_blindly(seconds=3.0, seed=0, read=reader())
    assert outcomes["refused"] > 20 and outcomes["read"] > 0


def test_the_fuzzer_tells_the_input_that_is_a_fault():
    with pytest.raises(AssertionError, match=r"the input b'.*' of .* is a fault"):
        fuzz_blindly(seconds=60.0, seed=0, read=lambda data: {}["missing"])


def test_the_sound_inputs_of_the_fuzzer_are_read():
    read, inputs = reader(), seeds()
    assert {read(data) for data in inputs} == {"read"} and len(inputs) > 20
