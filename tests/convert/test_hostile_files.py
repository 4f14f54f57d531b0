"""Files of PyTorch that ask for what they do not hold: one line, in little time and memory."""

import contextlib
import io
import struct
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from reliability.fuzz_reader import VALUES, Named, Pid, archive, fuzz_blindly, pickled, plain, reader, seeds, tensor

from beit_jax.convert.state_dicts import read_torch
from beit_jax.errors import UserError

STORED = {"0": VALUES, "1": VALUES}
FLOATS = np.frombuffer(VALUES, np.float32)


@pytest.fixture
def read(tmp_path):
    """Reads the tensors of a file with these bytes."""

    def function(data: bytes) -> dict[str, np.ndarray]:
        file = tmp_path / "w.pth"
        file.write_bytes(data)
        return read_torch(file).tensors

    return function


@contextlib.contextmanager
def cheap(seconds=6.0, memory=100 << 20):
    """Time, and memory that is allocated, used or not."""
    tracemalloc.start()
    start = time.monotonic()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.monotonic() - start < seconds and peak < memory


@contextlib.contextmanager
def cheap_objects(seconds=15.0, memory=350 << 20):
    """Time, and memory that the process uses: counting single objects would take longer than making them."""
    with contextlib.suppress(OSError):  # which only Linux has
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = _peak(), time.monotonic()
    yield
    assert time.monotonic() - start < seconds and _peak() - before < memory


def _peak() -> int:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def refused(read, data, message):
    with pytest.raises(UserError, match=message) as error:
        read(data)
    assert str(error.value).isprintable()


def of(tensor_, stored=None):
    return archive(pickled({"a": tensor_}), STORED if stored is None else stored)


def raw(opcodes: bytes) -> bytes:
    return archive(b"\x80\x02" + opcodes + b".", STORED)


def rebuilt(storage, offset, shape, strides, *more):
    return Named("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, *more)


def storage(key="0", count=4, kind="FloatStorage", *more):
    return Pid("storage", Named("torch", kind), key, "cpu", count, *more)


def test_views_are_the_values_that_they_name(read):
    for kind, dtype in (("FloatStorage", np.float32), ("HalfStorage", np.float16), ("DoubleStorage", np.float64)):
        values = np.arange(6).astype(dtype)
        strided = rebuilt(storage(count=6, kind=kind), 1, (2, 2), (1, 3))
        found = read(of(strided, {"0": values.tobytes()}))["a"]
        np.testing.assert_array_equal(found, np.float32([[1, 4], [2, 5]]))
        assert found.dtype == np.float32 and found.flags.c_contiguous and found.flags.writeable
    bfloat16 = np.array([1.5, -2, 3, 4], ml_dtypes.bfloat16).tobytes()
    np.testing.assert_array_equal(
        read(of(tensor("0", (4,), (1,), 4, "BFloat16Storage"), {"0": bfloat16}))["a"], np.float32([1.5, -2, 3, 4])
    )
    booleans = read(of(tensor("0", (3,), (1,), 3, "BoolStorage"), {"0": b"\0\x01\x07"}))["a"]
    assert booleans.dtype == np.bool_ and booleans.tolist() == [False, True, True]
    assert read(of(tensor("0", (), (), 4)))["a"] == 0 and read(of(tensor("0", (0, 3), (3, 1), 4)))["a"].shape == (0, 3)


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_that_share_a_storage_do_not_share_memory(read, legacy):
    named = {"a": tensor("0", (4,), (1,), 4), "b": tensor("0", (2, 2), (2, 1), 4), "c": tensor("0", (1,), (1,), 4)}
    content = pickled({"model": named})
    found = read(plain(content, {"0": (4, VALUES)}) if legacy else archive(content, STORED))
    found["a"][:] = -1
    np.testing.assert_array_equal(found["b"], FLOATS.reshape(2, 2))
    np.testing.assert_array_equal(found["c"], FLOATS[:1])


def test_only_the_tensors_that_are_asked_for_are_read(read):
    content = {"model": {"a": tensor("0", (4,), (1,), 4)}, "optimizer": {"a": tensor("1", (1 << 24,), (1,), 1 << 24)}}
    data = archive(pickled(content), {"0": VALUES, "1": bytes(4 << 24)})
    with cheap(memory=1 << 20):
        np.testing.assert_array_equal(read(data)["a"], FLOATS)


def test_a_file_takes_the_memory_of_its_arrays(read):
    count = 1 << 20
    named = {f"n{i}": tensor(str(i), (count,), (1,), count) for i in range(8)}
    data = archive(pickled(named), {str(i): bytes(4 * count) for i in range(8)})
    with cheap(memory=int(8.5 * 4 * count)):
        assert sum(values.nbytes for values in read(data).values()) == 8 * 4 * count


LARGE = 1 << 62


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (rebuilt(tensor("0", (4,), (1,), 4), 0, (100,), (1,)), "something other than stored values"),
        (rebuilt({}, 0, (1,), (1,)), "something other than stored values"),
        (rebuilt(Named("torch", "FloatStorage"), 0, (1,), (1,)), "something other than stored values"),
        (Named("torch._utils", "_rebuild_parameter", {}, True, {}), "no tensor"),
        (rebuilt(storage("9"), 0, (4,), (1,)), "stored values 9 are missing"),
        (rebuilt(storage(("0",)), 0, (4,), (1,)), "a reference to something other"),
        (rebuilt(storage("0", -4), 0, (4,), (1,)), "impossible number"),
        (rebuilt(storage("0", LARGE), 0, (4,), (1,)), "unexpected size"),
        (rebuilt(storage("0", 4, "DoubleStorage"), 0, (4,), (1,)), "unexpected size"),
        (rebuilt(storage("0", 4, "FloatStorage", ("0", 0, 2)), 0, (2,), (1,)), "a view into other stored values"),
        (rebuilt(storage(), 0, (5,), (1,)), "reaches beyond"),
        (rebuilt(storage(), 3, (2,), (1,)), "reaches beyond"),
        (rebuilt(storage(), 0, (2,), (4,)), "reaches beyond"),
        (rebuilt(storage(), -1, (2,), (1,)), "impossible shape"),
        (rebuilt(storage(), 3, (2,), (-1,)), "impossible shape"),
        (rebuilt(storage(), 0, (-2, -2), (1, 1)), "impossible shape"),
        (rebuilt(storage(), 0, (2,), (LARGE,)), "impossible shape"),
        (rebuilt(storage(), LARGE, (2,), (1,)), "impossible shape"),
        (rebuilt(storage(), 0, (1 << 32, 1 << 32), (0, 0)), "impossible shape"),
        (rebuilt(storage(), 0, (0, 1 << 40, 1 << 40), (1, 1, 1)), "impossible shape"),
        (rebuilt(storage(), 0, (1,) * 100, (1,) * 100), "impossible shape"),
        (rebuilt(storage(), 0, (2, 2), (1,)), "impossible shape"),
        (rebuilt(storage(), 0, [2], [1]), "impossible shape"),
        (rebuilt(storage(), 0, (2.0,), (1,)), "impossible shape"),
        (rebuilt(storage(), 0, (True,), (1,)), "impossible shape"),
        (Named("torch._utils", "_rebuild_tensor", 0), "other arguments"),
    ],
)
def test_impossible_tensors(read, wrong, message):
    with cheap():
        refused(read, of(wrong), f"cannot be read .*{message}")
    with cheap():
        refused(read, plain(pickled({"a": wrong}), {"0": (4, VALUES)}), "cannot be read")


def test_tensors_that_repeat_their_values(read):
    """Broadcast ones cost nothing where they are not asked for."""
    for shape, strides in (((10**12,), (0,)), ((5,), (0,)), ((3, 4), (0, 1))):
        large = rebuilt(storage(), 0, shape, strides)
        with cheap():
            refused(read, of(large), r"a kind of tensor that is not read here \(a, .* of 4 values\)")
        content = {"model": {"a": tensor("0", (4,), (1,), 4)}, "other": large}
        np.testing.assert_array_equal(read(archive(pickled(content), STORED))["a"], FLOATS)


@pytest.mark.parametrize(
    "wrong",
    [
        tensor("0", (2,), (1,), 2, "ComplexFloatStorage"),
        tensor("0", (4,), (1,), 16, "QInt8Storage"),
        tensor("0", (4,), (1,), 16, "UntypedStorage"),
        Named("torch._utils", "_rebuild_sparse_tensor", 1),
        Named("torch._utils", "_rebuild_qtensor", 1),
        Named("torch._tensor", "_rebuild_from_type_v2", 1),
        Named("torch.serialization", "_get_layout", "torch.sparse_coo"),
        Named("torch", "float8_e4m3fn"),
    ],
)
def test_kinds_of_tensors_that_are_not_read(read, wrong):
    refused(read, of(wrong), r"holds a kind of tensor that is not read here \(\w+\); expected dense ones")


def test_one_storage_described_in_two_ways(read):
    for second in (tensor("0", (4,), (1,), 4, "IntStorage"), tensor("0", (2,), (1,), 2)):
        both = {"a": tensor("0", (4,), (1,), 4), "b": second}
        refused(read, archive(pickled(both), STORED), "two descriptions of the stored values 0")


NAMESPACE = b"cargparse\nNamespace\nq\x000"  # stored in the memo as 0
NUMBERS = b"".join(b"J" + struct.pack("<i", number) for number in range(30_000))

EQUAL_HASHES = b"".join(b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"N" for i in range(9999))


def shared_modules(depth: int) -> bytes:
    """Each module holds the one below it twice."""
    body = b"cdall_e\nEncoder\nq\x000h\x00)R"
    for index in range(1, depth):
        below = b"h" + bytes([index])
        body += (
            b"q" + bytes([index]) + b"0h\x00)R}X\x08\0\0\0_modules}(X\1\0\0\0a" + below + b"X\1\0\0\0b" + below + b"usb"
        )
    return body


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (b"]r\xff\xff\xff\x7f", "no named tensors"),  # an index of the memo
        (b"(" * 100_000 + b"l" * 100_000, "no named tensors"),  # nested lists
        (b")" + b"\x85" * 200_000, "no named tensors"),  # nested tuples
        (b"})" + b"\x85" * 200_000 + b"Ns", "no named tensors"),  # the same as a key, which is not hashed
        (NAMESPACE + b"h\x00)R" * 50_000 + b"b" * 49_999, "no named tensors"),  # objects in the state of objects
        (b"\x8f" * 600_000, "more steps than a model"),
        (b"})" + b"2\x86" * 60 + b"Ns", "no named tensors"),  # 2 ** 60 leaves, as a key
        (b"c__builtin__\nset\n)" + b"2\x86" * 60 + b"\x85\x85R", "cannot be read|no named tensors"),  # as members
        (b"(X\x07\0\0\0storage" + b")" + b"2\x86" * 60 + b"NNNtQ", "a reference to something other"),  # as an id
        (shared_modules(40), "more steps than a model"),
        (NAMESPACE + b"}(" + NUMBERS + b"uq\x010" + b"h\x00)Rh\x01b0" * 20_000 + b"N", "no named tensors"),
        (b"c__builtin__\nset\nq\x00](" + NUMBERS + b"eq\x010" + b"h\x00h\x01\x85R" * 9000 + b"N", "more steps"),
        (b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6, "an integer that no checkpoint needs"),
        (b"I" + b"9" * 4000 + b"\n", "an integer that no checkpoint needs"),
        (b"I" + b"9" * 5000 + b"\n", "damaged pickle"),
        (b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\x7f", "ends within a value"),
        (b"\x8e" + struct.pack("<Q", 1 << 62), "ends within a value"),  # bytes
        (b"\x8d" + struct.pack("<Q", 1 << 40), "ends within a value"),  # text
        (b"\x96" + struct.pack("<Q", 1 << 40), "ends within a value"),  # a bytearray
        (b"}(" + EQUAL_HASHES + b"u", "no named tensors"),
        (b"\x82\x01", "the opcode EXT1"),
        (b"h\x07", "has not stored"),
        (b"0", "its stack is empty"),
        (b"t", "a mark is missing"),
        (b"K\x01)R", "a call of a value of the type int"),
        (b"]K\x01b", "attributes set on a value of the type list"),
        (b"K\x01K\x01a", "items added to a value of the type int"),
        (b"}(K\x01u", "a key without a value"),
        (b"\x8c\x03o\ns\x8c\x06sys\x1bte\x93", r"asks to run o\\ns.sys\\x1bte, which no checkpoint needs"),
        (b"\xff", "opcode b'\\\\xff' unknown"),
    ],
)
def test_pickles_that_ask_for_too_much(read, opcodes, message):
    with cheap_objects():
        refused(read, raw(opcodes), message)


def test_views_that_together_are_larger_than_the_file(read):
    count = 1 << 20
    stored = {"0": bytes(4 * count)}

    def named(copies):
        return archive(pickled({f"n{i}": tensor("0", (count,), (1,), count) for i in range(copies)}), stored)

    assert len(read(named(4))) == 4
    with cheap(memory=8 << 20):
        refused(read, named(60), "asks for more memory than a model")


def test_names_of_tensors_that_are_no_text(read):
    named = {"a": tensor("0", (4,), (1,), 4), 7: tensor("1", (4,), (1,), 4), None: 1}
    assert set(read(archive(pickled(named), STORED))) == {"a"}


# --- archives


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


# --- the older format


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


# --- random changes


def test_fuzzing_for_some_seconds():
    outcomes = fuzz_blindly(seconds=3.0, seed=0, read=reader())
    assert outcomes["refused"] > 20 and outcomes["read"] > 0


def test_the_fuzzer_tells_the_input_that_is_a_fault():
    with pytest.raises(AssertionError, match=r"the input b'.*' of .* is a fault"):
        fuzz_blindly(seconds=60.0, seed=0, read=lambda data: {}["missing"])


def test_the_sound_inputs_of_the_fuzzer_are_read():
    read, inputs = reader(), seeds()
    assert {read(data) for data in inputs} == {"read"} and len(inputs) > 20


@pytest.mark.slow
def test_fuzzing_for_two_minutes():
    outcomes = fuzz_blindly(seconds=120.0, seed=int(time.time()), read=reader())
    assert sum(outcomes.values()) > 2000
