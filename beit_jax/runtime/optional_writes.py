"""Writes that a run can do without: a full disk is no reason to lose hours of training for a line of a log."""

import logging
from collections.abc import Callable

from beit_jax.runtime.bucket_retries import BucketError


class OptionalWrites:
    """Writes of one kind. A failure is logged, once until a write succeeds again; the run goes on."""

    def __init__(self, what: str):
        """
        Args:
          what: is written, for the message.
        """
        self._what, self._failing = what, False

    def attempt(self, write: Callable[[], object]) -> bool:
        """Whether `write` succeeded; one that raised `OSError` or `BucketError` may be tried again."""
        try:
            write()
        except (OSError, BucketError) as error:
            if not self._failing:
                message = "cannot write %s (%s); the run goes on, and tries it again"
                logging.getLogger("beit_jax").warning(message, self._what, error)
            self._failing = True
            return False
        if self._failing:
            logging.getLogger("beit_jax").warning("%s can be written again", self._what)
        self._failing = False
        return True
