"""Google Cloud Storage as this process reaches it: credentials, requests that are tried again, errors in one line.

Orbax and tensorstore write checkpoints, gcsfs reads and writes everything else through etils' paths, and Google's own
client makes the requests that depend on what is there (a lock, an object that grows). Where `STORAGE_EMULATOR_HOST` is
set, all of them talk to that server, without credentials.
"""

import contextlib
import functools
import inspect
import os
import secrets
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote

from beit_jax.errors import UserError
from beit_jax.runtime.bucket_retries import LOGIN, BucketError, code_of, fail, patience_s, policy
from beit_jax.runtime.urls import BUCKET

EMULATOR = "STORAGE_EMULATOR_HOST"
FIRST_PATIENCE_S = 60.0  # of the first requests of a command, before which it has done nothing
SILENCE_S = 60.0  # of a connection, after which it is given up
DELETIONS = 16  # at the same time
Result = TypeVar("Result")


@functools.cache
def prepare() -> None:
    """Sets up the libraries, once in a process.

    Raises:
      ModuleNotFoundError: they are not installed.
    """
    _set_environment()
    import fsspec
    import gcsfs  # noqa: F401 (so that its absence is told, and not that of what it needs)

    for protocol in ("gs", "gcs"):
        fsspec.register_implementation(protocol, _file_system_class(), clobber=True)


def _set_environment() -> None:
    """Tells tensorstore, which reads it when it is first used, what gcsfs and Google's client know."""
    if server := os.environ.get(EMULATOR):
        os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", server if "://" in server else f"http://{server}")
        os.environ.setdefault("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")


@functools.cache
def file_system() -> Any:
    """The `gcsfs.GCSFileSystem` that etils' paths use as well."""
    prepare()
    import fsspec

    return fsspec.filesystem("gcs", finalize_on_close=True)  # etils' own call: fsspec keeps one for the same arguments


@functools.cache
def client() -> Any:
    """Google's own client.

    Raises:
      BucketError: there are no credentials, or no project.
    """
    prepare()
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage

    try:
        return storage.Client()
    except DefaultCredentialsError as error:
        raise BucketError(f"there are no credentials for buckets of Google Cloud Storage; {LOGIN}") from error
    except OSError as error:  # Orbax makes such a client as well, so that one without a project here would not help
        raise BucketError(
            "no project of Google Cloud is known here; run gcloud config set project NAME, or set the environment "
            "variable GOOGLE_CLOUD_PROJECT"
        ) from error


def blob(path: os.PathLike) -> Any:
    """The object of a path, for Google's own client."""
    bucket, _, name = os.fspath(path).removeprefix(BUCKET).partition("/")
    return client().bucket(bucket).blob(name)


def call(
    path: os.PathLike, request: Callable[..., Result], *args: Any, within_s: float | None = None, **settings: Any
) -> Result:
    """Calls a method of Google's own client, which is tried again.

    Args:
      path: that it is about, for messages.
      request: such as `blob(path).reload`.
      *args: of the method.
      within_s: seconds for which it is tried; None: `patience_s`.
      **settings: of the method.

    Raises:
      FileNotFoundError: there is no such object.
      FileExistsError: a condition is not met.
      BucketError: every other error.
    """
    from google.api_core import exceptions, retry

    seconds = patience_s() if within_s is None else within_s
    again = retry.Retry(**policy() | {"timeout": seconds})
    try:
        return request(*args, retry=again, timeout=min(SILENCE_S, seconds), **settings)
    except exceptions.NotFound as error:
        raise FileNotFoundError(f"{os.fspath(path)} does not exist") from error
    except exceptions.PreconditionFailed as error:
        raise FileExistsError(f"{os.fspath(path)} has changed") from error
    except Exception as error:
        fail(os.fspath(path), error, seconds)


def check_access(flag: str, path: str, *, writes: bool) -> None:
    """Checks that a bucket exists and lets this account read and, if asked, write below a path.

    Args:
      flag: such as "--workdir=", for messages.
      path: in the bucket.
      writes: whether to write an empty object below the path, which is deleted again.

    Raises:
      UserError: it does not.
    """
    bucket = path.removeprefix(BUCKET).partition("/")[0]
    try:
        prepare()
        within = {"within_s": min(patience_s(), FIRST_PATIENCE_S)}
        call(
            path, lambda **settings: next(client().list_blobs(bucket, max_results=1, **settings).pages, None), **within
        )
        if writes:
            probe = f"{path.rstrip('/')}/.write_test-{secrets.token_hex(4)}"
            call(probe, blob(probe).upload_from_string, b"", **within)
            with contextlib.suppress(FileNotFoundError):  # the repetition of a deletion whose answer was lost
                call(probe, blob(probe).delete, **within)
    except FileNotFoundError as error:
        raise UserError(
            f"{flag}{path}: there is no bucket {BUCKET}{bucket}; make it, such as with gcloud storage buckets create "
            f"{BUCKET}{bucket} --location=REGION, or correct the name"
        ) from error
    except BucketError as error:
        said = str(error)
        raise UserError(f"{flag}{said if said.startswith(path) else f'{path}: {said}'}") from error


@functools.cache
def _file_system_class() -> type:
    """gcsfs' file system without its caches of listings, and with the retries of this module."""
    import aiohttp
    import gcsfs.core
    from fsspec import asyn
    from google.api_core.retry import AsyncRetry

    def retried(function: Callable[..., Any]) -> Callable[..., Any]:
        """A method of gcsfs, with the retries and the errors of this module."""
        plain = inspect.unwrap(function)  # without the retries of gcsfs, which end after half a minute

        async def request(self: Any, *args: Any, **settings: Any) -> Any:
            try:
                return await AsyncRetry(**policy())(plain)(self, *args, **settings)
            except FileExistsError:
                raise
            except Exception as error:
                if isinstance(error, FileNotFoundError) or code_of(error) == 404:
                    raise FileNotFoundError(f"{_path_of(args)} does not exist") from error
                fail(_path_of(args), error)

        return request

    class FileSystem(gcsfs.core.GCSFileSystem):
        """See `_file_system_class`."""

        def __init__(self, **settings: Any):
            anonymous = {"token": "anon"} if os.environ.get(EMULATOR) else {}
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
            super().__init__(**{"use_listings_cache": False, "requests_timeout": timeout} | anonymous | settings)

        _request = retried(gcsfs.core.GCSFileSystem._request)
        _get_file_request = retried(gcsfs.core.GCSFileSystem._get_file_request)

        async def _mkdir(self, path: str, *args: Any, **settings: Any) -> None:
            """Does nothing: objects need no folders, and a bucket is made by whoever pays for it."""

        async def _rm(self, path: str, recursive: bool = False, **settings: Any) -> None:
            """Deletes an object or a folder. Names are no patterns, and what is gone already is no error."""
            path = self._strip_protocol(path)
            names = await self._find(path) if recursive else [path]
            # Not gcsfs' own way, one request for a hundred names: in its answer, what is gone is an error like others.
            deletions = [self._rm_file(name) for name in names]
            for result in await asyn._run_coros_in_chunks(deletions, batch_size=DELETIONS, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, FileNotFoundError):
                    raise result

        rm = asyn.sync_wrapper(_rm)

        async def _isfile(self, path: str) -> bool:
            """Whether there is an object. Unlike gcsfs' own, it takes no error for a no."""
            try:
                return (await self._info(path))["type"] == "file"
            except FileNotFoundError:
                return False

    return FileSystem


def _path_of(request: tuple[Any, ...]) -> str:
    """What a request of gcsfs is about: `(method, address, bucket, name)`, with the last two in the address or not."""
    if len(request) > 2:
        return BUCKET + "/".join(str(part) for part in request[2:])
    if len(request) == 2 and "/b/" not in str(request[1]):  # a path and the file to write
        return BUCKET + str(request[0]).removeprefix(BUCKET)
    address = str(request[1] if len(request) > 1 else request[0])
    bucket, _, rest = address.partition("/b/")[2].partition("/")
    name = rest.removeprefix("o/").partition("?")[0]
    return BUCKET + unquote("/".join(filter(None, (bucket, name)))) if bucket else address
