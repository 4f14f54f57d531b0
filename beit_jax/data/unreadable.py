"""The account of images that could not be read: counted, named once, and too many of them end the run."""

import logging

from beit_jax.errors import UserError

ENOUGH = 20  # images seen before the share of unreadable ones means anything
NAMED = 5


class Unreadable:
    """How many of the images seen so far were unreadable; `max_fraction` is the share that is put up with."""

    def __init__(self, max_fraction: float):
        self.max_fraction = max_fraction
        self.seen = 0
        self.count = 0
        self.names: dict[str, None] = {}  # in the order they were met

    def add(self, seen: int, names: list[bytes]) -> None:
        """Takes in a batch of `seen` images and the names of the unreadable ones; warns once for each, with a count."""
        self.seen += seen
        self.count += len(names)
        for name in (raw.decode("utf-8", "replace") for raw in names):
            if name not in self.names:
                self.names[name] = None
                message = "cannot read the image %s (%d unreadable so far); another one takes its place"
                logging.getLogger("beit_jax").warning(message, name, len(self.names))

    def check(self, at_least: int = ENOUGH) -> None:
        """Raises UserError when more than the share put up with was unreadable and `at_least` images were seen."""
        if self.seen >= at_least and self.count > self.max_fraction * self.seen:
            names = ", ".join(list(self.names)[:NAMED]) + (", ..." if len(self.names) > NAMED else "")
            raise UserError(
                f"{self.count} of the {self.seen} images seen cannot be read ({names}), expected at most a share of "
                f"{self.max_fraction:g}; repair or remove them, or raise max_bad_fraction"
            )
