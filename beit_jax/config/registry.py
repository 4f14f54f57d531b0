"""What configs can name: the library's own, and those of a user's files."""

from typing import Any, Generic, TypeVar

from beit_jax.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for; a user's file may add some, and may not replace those of the library."""

    def __init__(self, kind: str, built_in: dict[str, T]) -> None:
        """
        Args:
          kind: of the entries, for messages: "task".
          built_in: the entries of the library.
        """
        self._kind = kind
        self._built_in = frozenset(built_in)
        self._entries = dict(built_in)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, those of the library first."""
        return tuple(self._entries)

    def register(self, name: str, entry: T) -> None:
        """Adds an entry, or replaces one that a user's file added before.

        Raises:
          UserError: the library has an entry of that name.
        """
        if name in self._built_in:
            raise UserError(
                f"the library has a {self._kind} {name!r} of its own; choose another name to register yours"
            )
        self._entries[name] = entry

    def find(self, name: Any) -> T:
        """
        Raises:
          UserError: there is no entry of that name.
        """
        if name not in self._entries:
            raise UserError(
                f"the {self._kind} {name!r} is unknown; expected one of {', '.join(self._entries)}, or one of a file "
                "of your own that the config loads (or --plugin=FILE)"
            )
        return self._entries[name]
