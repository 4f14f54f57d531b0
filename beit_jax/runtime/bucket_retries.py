"""Requests to a store of objects: when one is made again, and what is told in the end.

A request that the store does not answer, or answers with 408, 429 or 5xx, is made again for up to `PATIENCE_S`, after
waits that double, and counted.
"""

import os
import threading
from typing import Any, NoReturn

from beit_jax.errors import UserError
from beit_jax.runtime.urls import BUCKET

PATIENCE_VARIABLE = "BEIT_JAX_BUCKET_PATIENCE"  # seconds
PATIENCE_S = 300.0
LONGEST_WAIT_S = 20.0  # between two attempts
LOGIN = "run gcloud auth application-default login, or start this on a machine with a service account"
ROLE = "roles/storage.objectUser and roles/storage.legacyBucketReader"


class BucketError(UserError):
    """The store does not do what it is asked: it is silent, or refuses. That says nothing about what is in the bucket.

    It is no `OSError`: code that takes one for a missing or a damaged file does not take this for one.
    """


class _Retries:
    """How many requests were made again, by why."""

    def __init__(self) -> None:
        self._lock, self._counts = threading.Lock(), {}

    def add(self, error: Exception) -> None:
        """Counts one more, for this reason."""
        reason = describe(error)
        with self._lock:
            self._counts[reason] = self._counts.get(reason, 0) + 1

    def counts(self) -> dict[str, int]:
        """How many since the start of the process, by reason."""
        with self._lock:
            return dict(self._counts)


RETRIES = _Retries()


def patience_s() -> float:
    """Seconds for which a request is tried again."""
    return float(os.environ.get(PATIENCE_VARIABLE) or PATIENCE_S)


def describe(error: Exception) -> str:
    """A type of error, and the number of the answer where there was one."""
    code = code_of(error)
    return f"{type(error).__name__} {code}" if code else type(error).__name__


def code_of(error: Exception) -> int | None:
    """The number of the answer that an error is about; None where there was no answer."""
    codes = getattr(error, "code", None), getattr(getattr(error, "response", None), "status_code", None)
    return next((int(code) for code in codes if isinstance(code, int)), None)


def policy() -> dict[str, Any]:
    """The arguments of a retry policy of `google.api_core`."""
    import requests
    from gcsfs.retry import errs, is_retriable
    from google.auth.exceptions import TransportError

    # The last one: while credentials are renewed.
    silence = (TimeoutError, ConnectionError, requests.exceptions.ConnectionError, TransportError)

    def is_transient(error: Exception) -> bool:
        return isinstance(error, silence) or is_retriable(error) or code_of(error) in errs

    waits = {"initial": 1.0, "maximum": LONGEST_WAIT_S, "multiplier": 2.0, "timeout": patience_s()}
    return {"predicate": is_transient, "on_error": RETRIES.add} | waits


def fail(path: str, error: Exception, seconds: float | None = None) -> NoReturn:
    """Raises a `BucketError` that says what a user can do about the answer of the store, or about its silence.

    Args:
      path: that was asked for.
      error: of the request.
      seconds: for which it was tried; None: `patience_s`.
    """
    if isinstance(error, BucketError):
        raise error
    code, text = code_of(error), str(error)
    bucket = BUCKET + path.removeprefix(BUCKET).partition("/")[0]
    if code == 403 or text.startswith("Forbidden"):
        raise BucketError(
            f"{path}: this account has no right to do that; give it {ROLE}, such as with gcloud storage buckets "
            f"add-iam-policy-binding {bucket} --member=user:NAME@EXAMPLE.COM --role=roles/storage.objectUser"
        ) from error
    words = f"{type(error).__name__} {text}".lower()
    if code == 401 or "credentials" in words or "refresherror" in words:
        raise BucketError(f"{path}: there are no credentials that the store accepts; {LOGIN}") from error
    reason = " ".join(filter(None, (describe(error), text.partition("\n")[0][:200])))
    if type(error).__name__ != "RetryError":
        raise BucketError(f"{path}: the store refused to do what it was asked ({reason}); check the path") from error
    raise BucketError(
        f"{path}: the store did not do what it was asked within {seconds or patience_s():g} s ({reason}); check the "
        "network and the bucket, and run the same command again"
    ) from error
