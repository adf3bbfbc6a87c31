"""Which failures are transient, how calls are retried, and which failures concern one file only."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from sapiens_ray.storage import retries
from sapiens_ray.storage.retries import Teller, Waiting, concerns_one_file, is_transient, no_retries, retrying
from sapiens_ray.storage.uris import redact_uri, storage_of


class HttpError(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


def boto(name: str, code: str | None = None) -> Exception:
    """An exception with the name and the response of one of botocore."""
    error = type(name, (Exception,), {})("x")
    if code:
        error.response = {"Error": {"Code": code}}
    return error


TRANSIENT = [
    TimeoutError(), ConnectionResetError(), OSError(errno.EBUSY, "SlowDown"), OSError(errno.EREMOTEIO, "500"),
    OSError(errno.EIO, "?"), HttpError(429), HttpError(503), boto("ClientPayloadError"), boto("IncompleteReadError"),
    boto("HTTPClientError"),
]  # fmt: skip
PERMANENT = [
    FileNotFoundError(), PermissionError(), FileExistsError(), OSError(errno.EINVAL, "412"), OSError(errno.ENOSPC, ""),
    HttpError(404), ValueError(), boto("NoCredentialsError"), boto("ParamValidationError"),
    type("FileExpired", (OSError,), {})(errno.EBUSY, "another ETag"),
]  # fmt: skip


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_transient_failures(error):
    assert is_transient(error)


@pytest.mark.parametrize("error", PERMANENT, ids=repr)
def test_permanent_failures(error):
    assert not is_transient(error)


def test_pauses_double_with_a_random_part_until_the_deadline(monkeypatch):
    pauses: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(retries, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now[0]))
    monkeypatch.setattr(retries, "_deadline_s", 60.0)

    def fail() -> None:
        raise TimeoutError("always")

    with pytest.raises(TimeoutError):
        retrying(fail)
    expected = [0.2 * 2**n for n in range(6)]
    for pause, longest in zip(pauses, expected, strict=False):
        assert longest / 2 <= pause <= longest
    assert max(pauses) <= 10 and 45 <= now[0] <= 60
    assert len({round(pause / longest, 6) for pause, longest in zip(pauses, expected, strict=False)}) > 1
    pauses.clear()
    with pytest.raises(TimeoutError), no_retries():
        retrying(fail)
    assert pauses == []


@pytest.fixture
def failing(monkeypatch):
    """A function that calls something which never succeeds, for the 120 s of a clock that only its pauses move."""
    now = [1000.0]
    monkeypatch.setattr(
        retries, "time", SimpleNamespace(sleep=lambda s: now.append(now.pop() + s), monotonic=lambda: now[0])
    )
    monkeypatch.setattr(retries, "_deadline_s", 120.0)
    monkeypatch.setattr(retries, "_told_at", {})
    monkeypatch.setattr(retries, "random", SimpleNamespace(uniform=lambda low, high: high))

    def fail() -> None:
        raise ConnectionRefusedError("cannot connect to https://me:S3CRET@host/a.jpg")

    def call(of: str = "") -> None:
        with pytest.raises(ConnectionRefusedError):
            retrying(fail, of=of)

    return call


def test_a_storage_that_does_not_answer_is_told_once_in_a_while(failing, caplog):
    failing("https://me:S3CRET@host/a.jpg?X-Amz-Signature=abc")
    failing("https://me:S3CRET@host/b.jpg")
    said = "The storage https://host does not answer (cannot connect to https://host/a.jpg); trying again for up to"
    assert caplog.messages[0] == f"{said} 114 s." and all(line.startswith(said) for line in caplog.messages)
    assert 3 <= len(caplog.messages) <= 4, "every minute"


def test_each_storage_is_told(failing):
    told: list[Waiting] = []
    with retries.telling(told.append):
        failing("s3://photos/a.jpg")
        failing("s3://labels/data/x.parquet")
        failing()
    assert {waiting.storage for waiting in told} == {"s3://photos", "s3://labels", ""}
    first = told[0]
    assert (first.storage, first.reason) == ("s3://photos", "cannot connect to https://host/a.jpg")
    assert first.waited_s > 5 and first.waited_s + first.left_s == pytest.approx(120)


def test_how_often_it_is_told_is_chosen(failing):
    told: list[Waiting] = []
    before = retries.set_teller(Teller(told.append, silent_s=0.0, every_s=0.0))
    try:
        failing("s3://photos/a.jpg")
    finally:
        retries.set_teller(before)
    assert len(told) == 15, (
        "at every failure but the first, after which nothing was waited, and the last, which is raised"
    )


def test_a_retry_that_succeeds_returns_its_value(monkeypatch):
    monkeypatch.setattr(retries, "time", SimpleNamespace(sleep=lambda seconds: None, monotonic=lambda: 0.0))
    answers = [ConnectionResetError(), TimeoutError(), 7]

    def call() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retrying(call) == 7 and answers == []


def test_a_failure_concerns_one_file_only_if_the_storage_answers():
    assert not concerns_one_file(TimeoutError(), lambda: False)
    assert concerns_one_file(TimeoutError(), lambda: True)
    assert concerns_one_file(FileNotFoundError(), lambda: False), "a clear answer needs no second request"
    expired = PermissionError("The provided token has expired")
    expired.__cause__ = boto("ClientError", "ExpiredToken")
    assert not concerns_one_file(expired, lambda: True) and concerns_one_file(PermissionError("denied"), lambda: True)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://me:pw@host/a.jpg?X-Amz-Signature=abc&v=1", "https://host/a.jpg?X-Amz-Signature=...&v=1"),
        ("https://x.blob/a?sv=1&sig=abc%3D&se=2", "https://x.blob/a?sv=1&sig=...&se=2"),
        ("https://x/a?AWSAccessKeyId=AK&Expires=1", "https://x/a?AWSAccessKeyId=...&Expires=1"),
        ("/photos/a?token=b.jpg", "/photos/a?token=b.jpg"),
        ("s3://bucket/key@2x.jpg", "s3://bucket/key@2x.jpg"),
    ],
)
def test_uris_are_shown_without_secrets(uri, expected):
    assert redact_uri(uri) == expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://photos/a/b.jpg", "s3://photos"),
        ("https://me:pw@host:9000/a.jpg?X-Amz-Signature=abc", "https://host:9000"),
        ("/mnt/photos/a.jpg", "/mnt/photos/a.jpg"),
        ("", ""),
    ],
)
def test_the_storage_of_a_uri(uri, expected):
    assert storage_of(uri) == expected
