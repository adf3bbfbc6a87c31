"""What tests of stages share."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import cv2
import pytest

from sapiens_ray.engine import watchdog
from sapiens_ray.execution import attempts
from sapiens_ray.storage.retries import retry_deadline
from tests.conftest import PATIENCE_S


@pytest.fixture(autouse=True)
def real_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs of a plan are those of a user."""
    monkeypatch.delenv("SAPIENS_RAY_LOGICAL_GPUS", raising=False)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set where the watchdog would have ended this process."""
    came, looked = threading.Event(), threading.Event()

    def kill(process: int, how: int) -> None:
        assert (process, how) == (os.getpid(), signal.SIGKILL)
        came.set()

    class Time:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def sleep(seconds: float) -> None:
            looked.set()
            time.sleep(0.002)

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(watchdog, "time", Time)
    yield came
    assert not watchdog._watches
    looked.clear()
    assert looked.wait(PATIENCE_S), "or a late look would meet the real os.kill"


@pytest.fixture
def settled_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stages settle their process, which is this one: put it back. A lower priority would stay for all other tests."""
    monkeypatch.setattr(attempts, "let_models_go_first", lambda: None)
    threads = cv2.getNumThreads()
    with retry_deadline(0):
        yield
    cv2.setNumThreads(threads)
