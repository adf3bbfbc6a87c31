"""Which GPUs count as broken, and what ends actors for good."""

from __future__ import annotations

import pytest
from ray._raylet import CoreWorker

from sapiens_ray.execution.devices import FAILED_BATCHES, FAILED_STARTS, RECOVERED_BATCHES, Device, Devices

ONE, OTHER = Device("node", "host", ("0",)), Device("node", "host", ("1",))


def failures(devices: Devices, *answered: int, starting: bool = False, device: Device = ONE) -> list[bool]:
    """Whether the GPU is broken after each failure. answered: batches that gave results before, in its process."""
    return [devices.failed(device, "ECC", starting, before) for before in answered]


def test_failures_in_a_row_break_a_gpu_and_no_other():
    devices = Devices()
    assert failures(devices, *[0] * FAILED_BATCHES) == [False] * (FAILED_BATCHES - 1) + [True]
    assert failures(devices, *[0] * FAILED_STARTS, starting=True, device=OTHER) == [False] * (FAILED_STARTS - 1) + [
        True
    ]
    assert devices.broken() == {ONE: "ECC", OTHER: "ECC"}


@pytest.mark.parametrize("before", [1, RECOVERED_BATCHES - 1])
def test_a_gpu_that_fails_after_a_few_batches_each_time_is_broken(before):
    assert failures(Devices(), *[before] * FAILED_BATCHES)[-1]


def test_a_gpu_that_works_for_long_between_failures_is_not():
    devices = Devices()
    assert not any(failures(devices, *[RECOVERED_BATCHES] * 100)) and not devices.broken()


def test_a_gpu_that_torch_does_not_find_is_broken_at_once():
    devices = Devices()
    devices.missing(ONE, "none")
    assert devices.broken() == {ONE: "none"}


def test_ray_can_end_an_actor_by_its_id():
    """A private call of Ray, see `lost_nodes.end_actor`. If it goes, a job may wait for ever for a lost node."""
    assert callable(CoreWorker.kill_actor)
