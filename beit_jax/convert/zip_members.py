"""The members of a zip archive that nobody trusts, where PyTorch stores tensors: uncompressed, one behind another."""

import struct
import zlib
from typing import BinaryIO, NamedTuple

from beit_jax.convert.read_budget import Budget, ScriptError, UnreadableError, excerpt

MAGIC = b"PK\x03\x04"
_LOCAL = struct.Struct("<4s5H3L2H")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_UNKNOWN = 0xFFFFFFFF  # the value is among the additional fields, in 64 bits
_ENCRYPTED, _SIZES_BEHIND = 0x1, 0x8  # flags
STEPS_PER_MEMBER = 4  # of the budget
CHUNK = 1 << 22  # bytes that are read at a time


class Member(NamedTuple):
    """Where the bytes of a member are in the file, and their CRC-32.

    It is None where the file states 0: so PyTorch writes that it computed none (`set_crc32_options(False)`).
    """

    start: int
    size: int
    crc: int | None


def read_members(file: BinaryIO, budget: Budget) -> dict[str, Member]:
    """All members of an archive, by their names.

    Raises:
      UnreadableError: the archive is damaged or compressed, or its parts contradict each other.
      ScriptError: it is one of TorchScript.
    """
    size = file.seek(0, 2)
    start, length, count = _directory(file, size)
    if not 0 <= start <= start + length <= size or count * _ENTRY.size > length:
        raise UnreadableError("an archive whose directory is not in the file")
    budget.spend(steps=STEPS_PER_MEMBER * count, size=length)
    directory = _read(file, start, length)
    members: dict[str, Member] = {}
    ends = []
    position = 0
    for _ in range(count):
        name, offset, member, position = _entry(directory, position)
        if name in members:
            raise UnreadableError(f"an archive with two members {excerpt(name)}")
        data = _check_local(file, name, offset, member)
        members[name] = Member(data, member.size, member.crc)
        ends.append((offset, data + member.size))
    if position != length:
        raise UnreadableError("an archive with more members than it says")
    _check_places(ends, start)
    return members


def check_bytes(file: BinaryIO, name: str, member: Member) -> None:
    """Compares the bytes of a member with its checksum, where it has one.

    Raises:
      UnreadableError: they have changed, or the file ends within them.
    """
    crc, end = 0, member.start + member.size
    for start in range(member.start, end, CHUNK):
        crc = zlib.crc32(_read(file, start, min(CHUNK, end - start)), crc)
    if member.crc is not None and crc != member.crc:
        raise UnreadableError(f"the member {excerpt(name)} of the archive is damaged")


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    data = file.read(count)
    if len(data) != count:
        raise UnreadableError("an archive that ends too early")
    return data


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Position and length of the directory, and its number of members."""
    tail_start = max(size - _END.size - 0xFFFF, 0)  # behind the end there may be a comment
    tail = _read(file, tail_start, size - tail_start)
    place = tail.rfind(b"PK\x05\x06", 0, max(len(tail) - _END.size + 4, 0))
    if place < 0:
        raise UnreadableError("an archive without its end")
    _, _, _, _, count, length, start, _ = _END.unpack_from(tail, place)
    if place >= _LOCATOR.size and tail[place - _LOCATOR.size :].startswith(b"PK\x06\x07"):
        _, _, where, _ = _LOCATOR.unpack_from(tail, place - _LOCATOR.size)
        if where + _END_64.size > size:
            raise UnreadableError("an archive whose directory is not in the file")
        magic, _, _, _, _, _, _, count, length, start = _END_64.unpack(_read(file, where, _END_64.size))
        if magic != b"PK\x06\x06":
            raise UnreadableError("an archive without its end")
    return start, length, count


def _entry(directory: bytes, position: int) -> tuple[str, int, Member, int]:
    """Name, position of the header, sizes, and the position of the next entry."""
    if position + _ENTRY.size > len(directory):
        raise UnreadableError("an archive with fewer members than it says")
    values = _ENTRY.unpack_from(directory, position)
    magic, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment, *_, offset = values
    name_start = position + _ENTRY.size
    end = name_start + name_length + extra_length + comment
    if magic != b"PK\x01\x02" or end > len(directory):
        raise UnreadableError("an archive with a damaged directory")
    name = directory[name_start : name_start + name_length].decode("utf-8", "surrogateescape")
    size, packed, offset = _in_64_bits(directory[name_start + name_length : end - comment], [size, packed, offset])
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise UnreadableError(f"an archive with a member outside of its folder, {excerpt(name)}")
    if method and name.split("/")[1:2] == ["code"]:
        raise ScriptError
    if method or flags & _ENCRYPTED or packed != size:
        raise UnreadableError(f"an archive with a compressed member, {excerpt(name)}; PyTorch does not compress")
    return name, offset, Member(0, size, crc or None), end


def _in_64_bits(extra: bytes, values: list[int]) -> list[int]:
    """Replaces values that are unknown by those of the additional field 1."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        field = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if kind == 1:
            numbers = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            values = [next(numbers, value) if value == _UNKNOWN else value for value in values]
    return values


def _check_local(file: BinaryIO, name: str, offset: int, member: Member) -> int:
    """The position of a member's bytes, from its own header, which must agree with the directory."""
    values = _LOCAL.unpack(_read(file, offset, _LOCAL.size))
    magic, _, flags, method, _, _, _, packed, size, name_length, extra_length = values
    local_name = _read(file, offset + _LOCAL.size, name_length).decode("utf-8", "surrogateescape")
    if magic != MAGIC or local_name != name or method or flags & _ENCRYPTED:
        raise UnreadableError(f"an archive whose parts contradict each other about {excerpt(name)}")
    stated = {packed, size} - ({0, _UNKNOWN} if flags & _SIZES_BEHIND else {_UNKNOWN})
    if stated - {member.size}:
        raise UnreadableError(f"an archive with two sizes of {excerpt(name)}")
    return offset + _LOCAL.size + name_length + extra_length


def _check_places(places: list[tuple[int, int]], directory: int) -> None:
    """Members, from `(first header, last byte)`, lie before the directory and share no byte."""
    previous = 0
    for start, end in sorted(places):
        if start < previous:
            raise UnreadableError("an archive whose members overlap")
        previous = end
    if previous > directory:
        raise UnreadableError("an archive with a member that is larger than the file")
