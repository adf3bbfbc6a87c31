"""A Ray that does not start on this machine."""

from __future__ import annotations

import pytest

from sapiens_ray.errors import JobError
from sapiens_ray.execution.cluster import start_ray


def test_a_ray_that_does_not_start_fails_the_job_and_says_what_to_do(monkeypatch):
    """Another try may succeed, so the job is not wrong: exit code 1."""
    import ray

    def fail(**options: object) -> None:
        raise RuntimeError("the node did not register in time")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    message = "run the command again, with fewer other programs beside it .*logs.*: the node did not register in time"
    with pytest.raises(JobError, match=message) as caught:
        start_ray()
    assert caught.value.exit_code == 1
