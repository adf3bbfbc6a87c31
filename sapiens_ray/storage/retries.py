"""Retries: which failures of a storage are transient, and repeating calls until they succeed.

s3fs retries too, for some seconds and after some of these failures. A server that restarts, or throttles a thousand
workers at once, takes longer, so every call on remote storage goes through `retrying` as well. A call that is repeated
for long is told: by default in a log line, in a job to the driver (`execution/storage_waits.py`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from sapiens_ray.storage.uris import redact_uris_in, storage_of

Answer = TypeVar("Answer")

_LOG = logging.getLogger("sapiens_ray")
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
SILENT_S, TELL_EVERY_S = 5.0, 60.0  # a call is told when it was repeated for so long, and again after so long

_TRANSIENT_ERRNO = {
    errno.EAGAIN, errno.EBUSY, errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, errno.EPIPE,
    errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH,
}  # fmt: skip
# Exceptions of HTTP libraries for failed connections and bodies that end early. By name, so that no library must be
# installed.
_TRANSIENT_NAMES = {
    "ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError",  # aiohttp
    "HTTPClientError", "ConnectionError", "ResponseStreamingError", "IncompleteReadError",  # botocore
    "IncompleteRead", "ServiceRequestError", "ServiceResponseError",  # http.client, azure
}  # fmt: skip
# Error codes about the account or the bucket: they concern every file.
_ACCESS_CODES = {
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "NoSuchBucket",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip
_ACCESS_NAMES = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}


@dataclass(frozen=True)
class Waiting:
    """A call that is being repeated. storage: such as s3://photos, without secrets; empty if it is not known. reason:
    the last failure. waited_s, left_s: seconds since the first attempt, and until the last one."""

    storage: str
    reason: str
    waited_s: float
    left_s: float


def _log(waiting: Waiting) -> None:
    what = f"The storage {waiting.storage}" if waiting.storage else "The storage"
    _LOG.warning("%s does not answer (%s); trying again for up to %.0f s.", what, waiting.reason, waiting.left_s)


@dataclass(frozen=True)
class Teller:
    """How a process tells that a call is being repeated. tell: called by the thread that waits, once the call was
    repeated for `silent_s` and then every `every_s`, for each storage: many threads may wait for it."""

    tell: Callable[[Waiting], None] = _log
    silent_s: float = SILENT_S
    every_s: float = TELL_EVERY_S


LOGGED = Teller()
_deadline_s = 120.0
_teller = LOGGED
_this_thread = threading.local()
_told_at: dict[str, float] = {}  # by storage


def set_retry_deadline(seconds: float) -> float:
    """Set for how long this process retries a failing call (`storage_retry_s` of the job). Returns the old value."""
    global _deadline_s
    before, _deadline_s = _deadline_s, seconds
    return before


@contextlib.contextmanager
def retry_deadline(seconds: float) -> Iterator[None]:
    """`set_retry_deadline` for the duration of the block."""
    before = set_retry_deadline(seconds)
    try:
        yield
    finally:
        set_retry_deadline(before)


def set_teller(teller: Teller) -> Teller:
    """Set how this process tells that a call is being repeated. Returns the old way."""
    global _teller
    before, _teller = _teller, teller
    return before


@contextlib.contextmanager
def telling(tell: Callable[[Waiting], None]) -> Iterator[None]:
    """Inside the block, `tell` is called when a call is being repeated, instead of a log line."""
    before = set_teller(Teller(tell, SILENT_S, TELL_EVERY_S))
    try:
        yield
    finally:
        set_teller(before)


@contextlib.contextmanager
def no_retries() -> Iterator[None]:
    """Inside the block, calls of this thread are not retried: for code that must not wait."""
    _this_thread.no_retries = True
    try:
        yield
    finally:
        _this_thread.no_retries = False


def is_transient(error: BaseException) -> bool:
    """Whether the next attempt may succeed: time-outs, lost connections, 408, 429 and 5xx."""
    if isinstance(error, FileNotFoundError | FileExistsError | PermissionError | IsADirectoryError):
        return False
    if type(error).__name__ == "FileExpired":  # of s3fs, for an object that was overwritten; its errno is EBUSY
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO:
        return True
    for name in ("status_code", "status", "code"):  # azure, aiohttp, gcsfs
        status = getattr(error, name, None)
        if isinstance(status, int) and (status in (408, 429) or 500 <= status < 600):
            return True
    return any(kind.__name__ in _TRANSIENT_NAMES for kind in type(error).__mro__)


def retrying(call: Callable[..., Answer], *args: object, of: str = "", **kwargs: object) -> Answer:
    """Call, and retry after transient failures. Pauses double, minus a random part, so that a thousand workers do
    not retry at the same moment. Raises the last failure after the deadline.

    of: the URI that the call is about, to tell which storage does not answer.
    """
    started = time.monotonic()
    end = started + (0 if getattr(_this_thread, "no_retries", False) else _deadline_s)
    pause = FIRST_PAUSE_S
    while True:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            now, wait = time.monotonic(), pause * random.uniform(0.5, 1.0)
            if not is_transient(error) or now + wait > end:
                raise
            if now - started > _teller.silent_s:
                _tell(error, storage_of(of), now - started, end - now)
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _tell(error: Exception, storage: str, waited_s: float, left_s: float) -> None:
    now = time.monotonic()
    if now - _told_at.get(storage, -math.inf) > _teller.every_s:
        _told_at[storage] = now
        reason = redact_uris_in(" ".join(str(error).split()))[:200] or type(error).__name__
        _teller.tell(Waiting(storage, reason, waited_s, left_s))


def concerns_one_file(error: Exception, is_reachable: Callable[[], bool]) -> bool:
    """Whether a failure is about the requested file, and not about its storage.

    is_reachable: whether the storage answers other requests. If it does, a failure that looked transient but
    persisted is about the file.
    """
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    if code in _ACCESS_CODES or type(error).__name__ in _ACCESS_NAMES:
        return False
    return is_reachable() if is_transient(error) else True
