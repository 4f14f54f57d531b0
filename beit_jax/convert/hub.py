"""The hub of Hugging Face: downloads files with its client, and says in one line what it refuses.

A token comes from an argument, from HF_TOKEN, or from the login that the client has stored (`hf auth login`). It is in
no config and in no message.
"""

import contextlib
import dataclasses
import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from beit_jax import __version__
from beit_jax.errors import UserError

ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?")
UNWRITABLE = (errno.EACCES, errno.ENOTDIR, errno.EPERM, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT)
SECRET = re.compile(r"hf_\w+|Bearer [^\s'\"]+")
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
SHOWN = 200  # characters of a message of the client
CLIENT = dict(library_name="beit_jax", library_version=__version__)


@dataclasses.dataclass(frozen=True)
class Options:
    """How a hub id is read; the defaults are those of `huggingface_hub`.

    Attributes:
      revision: branch, tag or commit.
      token: in place of HF_TOKEN and the stored login.
      cache_dir: where downloads are kept.
      local_files_only: whether only what was downloaded before is read.
    """

    revision: str | None = None
    token: str | None = dataclasses.field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False


DEFAULT = Options()


def is_id(name: str) -> bool:
    """Whether a name has the form `owner/name` or `owner/name@revision`."""
    return ID.fullmatch(name) is not None


def parse(name: str, options: Options = DEFAULT) -> tuple[str, Options]:
    """The id in a name, and the options with its revision.

    Raises:
      UserError: it is no id, or states another revision than the options.
    """
    if not (match := ID.fullmatch(name)):
        raise UserError(f"{name} is no hub id; expected owner/name, or owner/name@revision")
    if None not in (options.revision, match["revision"]) and options.revision != match["revision"]:
        raise UserError(f"{name} and revision={options.revision} name two revisions; expected one")
    return match["id"], dataclasses.replace(options, revision=options.revision or match["revision"])


def download(repository: str, patterns: Sequence[str], options: Options) -> tuple[Path, Options]:
    """Downloads the files of a repository whose names have one of the patterns, as far as they are not in the cache.

    Args:
      repository: its id, without a revision.
      patterns: such as `*.json`.
      options: with the revision.

    Returns:
      The folder, and the options that name the same commit, so that the next files are of it too.

    Raises:
      UserError: the hub does not give them, and they are not in the cache.
    """
    from huggingface_hub import snapshot_download

    with explained(repository, options.revision, options.token):
        check_token(options.token)
        given = dict(cache_dir=options.cache_dir, local_files_only=options.local_files_only, token=options.token)
        given |= dict(revision=options.revision, allow_patterns=list(patterns))
        folder = Path(snapshot_download(repository, **given, **CLIENT))
    if re.fullmatch(r"[0-9a-f]{40}", folder.name):  # a branch may move before the next files
        options = dataclasses.replace(options, revision=folder.name)
    return folder, options


def check_token(token: str | None) -> None:
    """
    Raises:
      UserError: the token has characters that no token has; it is not shown.
    """
    if token is not None and not re.fullmatch(r"[\w.-]+", token, re.ASCII):
        raise UserError("token has spaces or other characters that no token of the hub has; copy it again")


@contextlib.contextmanager
def explained(repository: str, revision: str | None, token: str | None) -> Iterator[None]:
    """Makes one line of what the client raises in the block.

    Raises:
      UserError: in place of it.
    """
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except (errors.HTTPError, OSError, ValueError, RuntimeError) as error:
        # The error of the client is not chained: it may quote the headers of the request.
        raise UserError(_reason(error, repository, revision, token)) from None


def _reason(error: Exception, repository: str, revision: str | None, token: str | None) -> str:
    from huggingface_hub import constants, errors, get_token

    cause = error if isinstance(error, errors.HfHubHTTPError) else error.__cause__ or error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    said = _said(cause, token)
    is_full = any(os.strerror(number) in said for number in FULL)  # libraries in Rust raise other types
    if is_full or {getattr(each, "errno", None) for each in (error, cause)} & {*UNWRITABLE}:
        advice = "free some space, or set" if is_full else "set"
        return f"{repository} cannot be kept here ({said}); {advice} HF_HOME to a folder that can be written"
    page, has_token = f"{constants.ENDPOINT}/{repository}", bool(token or get_token())
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision!r} on the hub; expected a branch, a tag or a commit of it"
    if isinstance(cause, errors.GatedRepoError):
        then = "" if has_token else f"; then {LOGIN}"
        return f"{repository} is gated: ask for access at {page}{then}"
    if isinstance(cause, errors.RepositoryNotFoundError) or status == 404:
        advice = "use the token of an account that may read it" if has_token else LOGIN
        return f"the hub has no {repository} that can be read; check the id, and if it is private, {advice}"
    if status == 401 or (status == 403 and not has_token):
        what = "does not accept the token" if has_token else "asks for a token"
        return f"the hub {what} for {repository} (status {status}); {LOGIN}: one with the rights to do this"
    if status is not None and 400 <= status < 500:
        return f"the hub refuses this for {repository} (status {status}: {said}); {_advice(status, said, has_token)}"
    if status is not None and status >= 500:
        return f"the hub has an error of its own for {repository} (status {status}: {said}); try again later"
    is_absent = isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is None
    if is_absent or constants.HF_HUB_OFFLINE:
        at = f" at the revision {revision}" if revision else ""
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "local_files_only is set"
        return f"{repository} is not in the cache of the hub{at}, and {why}; download it once without"
    return f"the hub at {constants.ENDPOINT} did not answer for {repository} ({said}); check the network, and try again"


def _said(error: BaseException, token: str | None) -> str:
    """What the hub says, or its client, in one line without tokens."""
    text = getattr(error, "server_message", None) or f"{type(error).__name__}: {error}"
    return SECRET.sub("...", " ".join(text.replace(token or "\0", "...").split()))[:SHOWN]


def _advice(status: int, said: str, has_token: bool) -> str:
    """What to do after a status from 400 to 499."""
    if status == 429:
        return "wait some minutes" + ("" if has_token else f", or {LOGIN}: users may ask more often")
    if re.search(r"storage|quota", said, re.IGNORECASE):
        return "delete something of this owner there, or choose another one"
    if status == 403:
        return "use a token with the rights to do this"
    if status in (409, 412):
        return "something else changes the repository: run the same command again"
    return "lower max_shard_size" if status == 413 else "correct what it names"


def client(token: str | None) -> Any:
    """The client of `huggingface_hub` for writing."""
    from huggingface_hub import HfApi

    check_token(token)
    return HfApi(token=token, **CLIENT)
