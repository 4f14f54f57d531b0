"""Pickles in files of PyTorch that ask for what they do not hold: one line, in little time and memory."""

import struct

import ml_dtypes
import numpy as np
import pytest
from hostile import FLOATS, STORED, cheap, cheap_objects, of, raw, rebuilt, refused, storage
from reliability.fuzz_reader import VALUES, Named, archive, pickled, plain, tensor


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
