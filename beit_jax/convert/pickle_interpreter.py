"""Interprets pickles without running anything in them: Python's own unpickler is not used.

`pickletools` of the standard library splits a pickle into opcodes. The interpreter makes plain containers of them, and
asks its caller what the names in the pickle stand for. Nesting costs no recursion: no value is compared, hashed, copied
or printed as a whole.
"""

import pickletools
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

from beit_jax.convert.read_budget import Budget, UnreadableError, excerpt

LONGEST_LINE = 1 << 20  # bytes of a line, in the oldest protocol
LARGEST_KEY = 1 << 60  # of an integer; larger ones can be chosen to have equal hashes
_PLAIN = (str, int, float, bool, bytes, type(None))


class Record:
    """Replaces an object that is read and not used: takes any state, does nothing."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None


class Function:
    """A function or a class that a pickle may call; without attributes that a pickle could set."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[..., Any]):
        self.run = run


class Window:
    """The bytes of a file from one position to another, as the file that a pickle is read from."""

    def __init__(self, file: BinaryIO, start: int, end: int):
        self._file, self.position, self._end = file, start, end
        file.seek(start)

    def skip(self, count: int) -> None:
        """Goes on behind the next `count` bytes."""
        if not 0 <= count <= self._end - self.position:
            raise UnreadableError("it ends within a value")
        self.position += count
        self._file.seek(self.position)

    def read(self, count: int) -> bytes:
        """The next `count` bytes; nothing is allocated for bytes that are not there."""
        if not 0 <= count <= self._end - self.position:
            raise UnreadableError("it ends within a value")
        data = self._file.read(count)
        self.position += len(data)
        return data

    def readline(self) -> bytes:
        """The next line, up to a limit."""
        line = self._file.readline(min(LONGEST_LINE, self._end - self.position))
        self.position += len(line)
        return line


def interpret(window: Window, find: Callable[[str, str], Any], persistent: Callable[[Any], Any], budget: Budget) -> Any:
    """The value of the pickle at the position of a window, which is then behind it.

    Args:
      window: the bytes.
      find: gives what the name `(module, name)` stands for: a `Function`, or any value that is inert.
      persistent: gives what the pickle refers to outside of itself, by its id.
      budget: one step is spent for each opcode.

    Raises:
      UnreadableError: the pickle is damaged, or does what no checkpoint needs; what `find` and `persistent` raise.
    """
    machine = _Machine(find, persistent, budget)
    opcodes = pickletools.genops(window)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of text with unknown escapes
        while True:
            try:
                opcode, argument, _ = next(opcodes)
            except (ValueError, OverflowError) as error:
                raise UnreadableError(f"a damaged pickle: {excerpt(str(error))}") from error
            budget.spend(steps=1)
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self, find: Callable[[str, str], Any], persistent: Callable[[Any], Any], budget: Budget):
        self._find, self._persistent, self._budget = find, persistent, budget
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # stacks below the marks
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Does what one opcode says."""
        if name in _CONSTANTS:
            self._stack.append(argument)
        elif name in _MAKERS:
            made = _MAKERS[name](self)  # which may replace the stack
            self._stack.append(made)
        elif name in _CHANGES:
            _CHANGES[name](self)
        elif name in _WITH_ARGUMENT:
            _WITH_ARGUMENT[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise UnreadableError(f"the opcode {name}, which no checkpoint needs")

    def pop(self) -> Any:
        """Takes the top of the stack."""
        if not self._stack:
            raise UnreadableError("a damaged pickle: its stack is empty")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise UnreadableError("a damaged pickle: its stack is empty")
        return self._stack[-1]

    def _marked(self) -> list[Any]:
        """Takes everything above the last mark."""
        if not self._below:
            raise UnreadableError("a damaged pickle: a mark is missing")
        items, self._stack = self._stack, self._below.pop()
        return items

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _drop(self) -> None:
        if self._stack or not self._below:
            self.pop()
        else:
            self._marked()

    def _tuple(self, count: int) -> tuple[Any, ...]:
        return tuple([self.pop() for _ in range(count)][::-1])

    def _long(self, value: int) -> None:
        if value.bit_length() > 512:
            raise UnreadableError("an integer that no checkpoint needs")
        self._stack.append(value)

    def _store(self, index: int) -> None:
        self._memo[index] = self._top()

    def _fetch(self, index: int) -> None:
        if index not in self._memo:
            raise UnreadableError("a damaged pickle: it refers to a value that it has not stored")
        self._stack.append(self._memo[index])

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Record:
            raise UnreadableError(f"items added to a value of the type {type(target).__name__}")

    def _add(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is set:
            target.update(map(_key, items))
        elif type(target) is not Record:
            raise UnreadableError(f"members added to a value of the type {type(target).__name__}")

    def _set(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is dict:
            target.update(_pairs(items))
        elif type(target) is not Record:
            raise UnreadableError(f"entries added to a value of the type {type(target).__name__}")

    def _build(self) -> None:
        state, target = self.pop(), self._top()
        if type(target) is Record:
            target.state = state
        elif type(target) is not dict:  # an OrderedDict, whose attributes are not used
            raise UnreadableError(f"attributes set on a value of the type {type(target).__name__}")

    def _global(self, both: str) -> None:
        module, _, name = both.partition(" ")
        self._stack.append(self._find(module, name))

    def _stack_global(self) -> Any:
        module, name = self._tuple(2)
        if type(module) is not str or type(name) is not str:
            raise UnreadableError("a name that is no text")
        return self._find(module, name)

    def _call(self, function: Any, arguments: Any) -> Any:
        if type(function) is not Function or type(arguments) is not tuple:
            raise UnreadableError(f"a call of a value of the type {type(function).__name__}")
        self._budget.spend(steps=sum(len(value) for value in arguments if type(value) in (list, tuple, dict)))
        try:
            return function.run(*arguments)
        except TypeError as error:
            raise UnreadableError("a call with other arguments than it takes") from error

    def _reduce(self) -> Any:
        return self._call(*self._tuple(2))

    def _new_with_names(self) -> Any:
        function, arguments, _ = self._tuple(3)
        return self._call(function, arguments)

    def _object(self) -> Any:
        function, *arguments = self._marked() or [None]
        return self._call(function, tuple(arguments))

    def _instance(self, both: str) -> None:
        arguments = tuple(self._marked())
        module, _, name = both.partition(" ")
        self._stack.append(self._call(self._find(module, name), arguments))


def _key(value: Any) -> Any:
    """A key of a dict or a member of a set; inert if it is of a kind that no tensor is named by."""
    plain = type(value) in _PLAIN and (type(value) is not int or -LARGEST_KEY < value < LARGEST_KEY)
    return value if plain else Record()


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise UnreadableError("a damaged pickle: a key without a value")
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def make_dict(pairs: Any = ()) -> dict[Any, Any]:
    """A dict of pairs, which Python 2 wrote as lists; for `OrderedDict`."""
    if type(pairs) not in (list, tuple) or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise UnreadableError("a dict of something other than pairs")
    return {_key(key): value for key, value in pairs}


def make_set(members: Any = ()) -> set[Any]:
    """A set of the members of a list."""
    if type(members) not in (list, tuple):
        raise UnreadableError("a set of something other than a list")
    return set(map(_key, members))


_CONSTANTS = {
    *("BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_MAKERS: dict[str, Callable[[_Machine], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "EMPTY_SET": lambda _: set(),
    "TUPLE1": lambda machine: machine._tuple(1),
    "TUPLE2": lambda machine: machine._tuple(2),
    "TUPLE3": lambda machine: machine._tuple(3),
    "TUPLE": lambda machine: tuple(machine._marked()),
    "LIST": lambda machine: machine._marked(),
    "DICT": lambda machine: _pairs(machine._marked()),
    "FROZENSET": lambda machine: make_set(machine._marked()),
    "DUP": lambda machine: machine._top(),
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "NEWOBJ_EX": _Machine._new_with_names,
    "OBJ": _Machine._object,
    "BINPERSID": lambda machine: machine._persistent(machine.pop()),
}
_CHANGES: dict[str, Callable[[_Machine], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._drop,
    "POP_MARK": lambda machine: machine._marked() and None,
    "BUILD": _Machine._build,
    "APPEND": lambda machine: machine._extend([machine.pop()]),
    "APPENDS": lambda machine: machine._extend(machine._marked()),
    "ADDITEMS": lambda machine: machine._add(machine._marked()),
    "SETITEM": lambda machine: machine._set(list(machine._tuple(2))),
    "SETITEMS": lambda machine: machine._set(machine._marked()),
    "MEMOIZE": lambda machine: machine._store(len(machine._memo)),
}
_WITH_ARGUMENT: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("INT", "LONG", "LONG1", "LONG4"), _Machine._long),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine._store),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._fetch),
    "GLOBAL": _Machine._global,
    "INST": _Machine._instance,
    "PERSID": lambda machine, argument: machine._stack.append(machine._persistent(argument)),
}
