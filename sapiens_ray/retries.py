"""Which failures of a storage pass by themselves, and asking again until they have.

s3fs asks again by itself, for some seconds and after some of these failures. A server that restarts, or throttles a
thousand workers at once, takes longer; so every call on remote storage goes through `retrying` as well.
"""

from __future__ import annotations

import contextlib
import errno
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Answer = TypeVar("Answer")

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0

_PASSING_ERRNO = {
    errno.EAGAIN, errno.EBUSY, errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, errno.EPIPE,
    errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH,
}  # fmt: skip
# What HTTP libraries raise when a connection fails or a body ends early, by name, so that none must be installed.
_PASSING_NAMES = {
    "ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError",  # aiohttp
    "HTTPClientError", "ConnectionError", "ResponseStreamingError", "IncompleteReadError",  # botocore
    "IncompleteRead", "ServiceRequestError", "ServiceResponseError",  # http.client, azure
}  # fmt: skip
# Answers that concern the account or the bucket, and so every file alike.
_ACCESS_CODES = {
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "NoSuchBucket",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip
_ACCESS_NAMES = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}

_patience_s = 120.0
_hurry = threading.local()


def set_patience(seconds: float) -> None:
    """For how long this process repeats a call: `storage_retry_s` of the job."""
    global _patience_s
    _patience_s = seconds


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Calls of this thread are not repeated inside the block: nobody should wait for them."""
    _hurry.on = True
    try:
        yield
    finally:
        _hurry.on = False


def passes(error: BaseException) -> bool:
    """Whether a failure may be gone at the next attempt: time-outs, lost connections, 408, 429 and 5xx."""
    if isinstance(error, FileNotFoundError | FileExistsError | PermissionError | IsADirectoryError):
        return False
    if type(error).__name__ == "FileExpired":  # s3fs, of an object that was overwritten; says EBUSY
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING_ERRNO:
        return True
    for name in ("status_code", "status", "code"):  # azure, aiohttp, gcsfs
        status = getattr(error, name, None)
        if isinstance(status, int) and (status in (408, 429) or 500 <= status < 600):
            return True
    return any(kind.__name__ in _PASSING_NAMES for kind in type(error).__mro__)


def retrying(call: Callable[..., Answer], *args: Any, **kwargs: Any) -> Answer:
    """Call, and again after failures that may pass, with pauses that double and a random share taken off, so that a
    thousand workers do not come back at the same moment. Raises the last failure when patience ends."""
    end = time.monotonic() + (0 if getattr(_hurry, "on", False) else _patience_s)
    pause = FIRST_PAUSE_S
    while True:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            wait = pause * random.uniform(0.5, 1.0)
            if not passes(error) or time.monotonic() + wait > end:
                raise
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def concerns_one_file(error: Exception, answers: Callable[[], bool]) -> bool:
    """Whether a failure says something about the file that was asked for, and not about its storage.

    answers: whether the storage answers other questions. A failure that should have passed and did not is the
    file's own if it does.
    """
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    if code in _ACCESS_CODES or type(error).__name__ in _ACCESS_NAMES:
        return False
    return answers() if passes(error) else True
