"""What the driver records; tests/e2e/test_metrics.py reads it as Prometheus does."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from sapiens_ray.execution import metrics
from sapiens_ray.execution.metrics import RunMetrics
from sapiens_ray.output.summary import Summary
from sapiens_ray.units import UnitReport
from tests.conftest import PATIENCE_S


@pytest.fixture
def recorded(monkeypatch):
    """Sums of counters, and what gauges were set to, by name and tags; with what Ray refuses."""
    counted: Counter[str] = Counter()
    gauges: dict[str, list[float]] = {}

    class Metric:
        def __init__(self, name, description, tags):
            self.name, self.tags = name.removeprefix("sapiens_ray_"), tags
            gauges[self.name] = []

        def inc(self, value, tags):
            assert value > 0 and set(tags) == set(self.tags) and "".join(tags.values()).isascii()
            assert tags.pop("job_name") == "job"
            counted[" ".join([self.name, *tags.values()])] += value

        def set(self, value, tags):
            if value is not None:
                gauges[self.name].append(value)

    monkeypatch.setattr("ray.util.metrics.Counter", Metric)
    monkeypatch.setattr("ray.util.metrics.Gauge", Metric)
    return counted, gauges


def test_every_report_is_added(recorded):
    counted, _ = recorded
    run = RunMetrics(Summary("job", "out", None))
    device = {"": [2.0, 0.5, 0.0], "seg": [3.0, 8.0, 1.25]}
    run.add(UnitReport("a", 4, {"corrupt": 1}, {"read": 0.5, "draw": 0.0}, [], 0, {}, device))
    run.add(UnitReport("b", 4, {}, {"read": 0.25}, [], 3, {}, device))
    run.add(UnitReport("c", 2, {"corrupt": 2}, {}, [], 4, {}, {"": [1.0, 0.0, 0.0], "pöse": [1.0, 1.0, 0.5]}))
    assert counted == {
        "images": 10,
        "error_rows corrupt": 3,
        "repeated": 4,
        "stage_seconds read": 0.75,
        "device_seconds": 5.0,
        "device_input_wait_seconds": 1.0,
        "network_inputs seg": 6.0,
        "batch_places seg": 16.0,
        "device_busy_seconds seg": 2.5,
        "network_inputs p\\xf6se": 1.0,
        "batch_places p\\xf6se": 1.0,
        "device_busy_seconds p\\xf6se": 0.5,
    }


def test_gauges_are_set_again_while_nothing_is_written(recorded, monkeypatch):
    monkeypatch.setattr(metrics, "SHOW_EVERY_S", 0.01)
    _, gauges = recorded
    summary = Summary("job", "out", None, already_done=3)
    deadline = time.monotonic() + PATIENCE_S
    with RunMetrics(summary).shown():
        while len(gauges["images_done"]) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert gauges["images_expected"] == [], "the input is still being listed"
        summary.labelled, summary.expected = 2, 9
    assert gauges["images_done"][-1] == 5 and gauges["images_expected"][-1] == 9
