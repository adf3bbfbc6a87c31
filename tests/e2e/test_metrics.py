"""What Prometheus reads of a job at the node of its driver."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import PATIENCE_S, ROOT, read_output, write_photos

NAME = "Fotos für 'alle'"
SCRIPT = """
import sys, ray, sapiens_ray as sr

def hold(summary):
    if summary.labelled == 9 and summary.state == "running":
        print(ray.nodes()[0]["MetricsExportPort"], flush=True)
        sys.stdin.readline()

sr.run(sr.Job.load(sys.argv[1]), address=sys.argv[2], on_progress=hold)

# Nothing is started again in this run, so that metric is recorded by itself.
from sapiens_ray.execution.metrics import RunMetrics
from sapiens_ray.output.summary import Summary
from sapiens_ray.units import UnitReport
RunMetrics(Summary("repeats", "", None)).add(UnitReport("", 0, {}, {}, [], repeated=2))
"""

Series = dict[str, float]  # by the values of the tags besides that of the job


def scrape(port: int, job: str = NAME) -> dict[str, Series]:
    """The metrics of a job, with how Prometheus calls them. The endpoint asks for no token."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    found: dict[str, Series] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("job_name") == job.replace("ü", r"\xfc"):
                tags = [sample.labels[tag] for tag in ("kind", "stage", "model") if tag in sample.labels]
                found[sample.name.removeprefix("ray_sapiens_ray_")][" ".join(tags)] = sample.value
    return found


@contextlib.contextmanager
def held_after_the_last_unit(path: os.PathLike[str], address: str) -> Iterator[int]:
    """A run that ends with the block. The port of the metrics of its node."""
    env = {**os.environ, "RAY_metrics_report_interval_ms": "1000"}
    command = [sys.executable, "-c", SCRIPT, path, address]
    driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert driver.stdout is not None
        yield int(driver.stdout.readline())
        driver.communicate("\n", timeout=PATIENCE_S)
        assert driver.returncode == 0
    finally:
        driver.kill()
        driver.wait()


def test_a_scrape_shows_the_exact_counts_of_a_run(cluster, write_job, tmp_path, model):
    write_photos(tmp_path / "photos", 7)
    (tmp_path / "photos" / "1.jpg").write_bytes(b"")
    (tmp_path / "photos" / "2.jpg").write_bytes(b"no photo")
    tasks = [{"task": "seg", "name": name, "checkpoint": str(model), "batch_size": 2} for name in ("one", "two")]
    path = write_job(tmp_path / "photos", name=NAME, unit_size=3, tasks=tasks)
    with held_after_the_last_unit(path, cluster.address) as port:
        deadline = time.monotonic() + PATIENCE_S
        while any(
            (found := scrape(port))[name] != {"": 9} for name in ("images_total", "images_done", "images_expected")
        ):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
    ended = scrape(port)
    rows, summary = (
        read_output(tmp_path / f"{NAME}-out"),
        json.loads((tmp_path / f"{NAME}-out" / "summary.json").read_text()),
    )
    assert ended["images_total"] == {"": rows.num_rows} == {"": 9}
    kinds = Counter(kind for kind in rows["error_kind"].to_pylist() if kind)
    assert ended["error_rows_total"] == kinds == {"empty": 1, "not_an_image": 1}
    assert ended["network_inputs_total"] == {"one": 7, "two": 7}
    assert "repeated_total" not in ended
    passed, busy = ended["device_seconds_total"][""], ended["device_busy_seconds_total"]
    device = summary["device"]
    assert sum(busy.values()) / passed == pytest.approx(device["busy"], abs=1e-4)
    waited = ended["device_input_wait_seconds_total"].get("", 0.0)
    assert waited / passed == pytest.approx(device["waiting_for_input"], abs=1e-4)
    for name, places in ended["batch_places_total"].items():
        assert 7 / places == pytest.approx(device["models"][name]["batch_fill"], abs=1e-4)
    seconds = {stage: spent / 9 for stage, spent in ended["stage_seconds_total"].items()}
    assert seconds == pytest.approx(summary["stages"], abs=1e-5)
    assert set(seconds) == {"read", "prepare", "one", "two", "draw", "write"}
    repeats = scrape(port, "repeats")
    assert repeats == {"repeated_total": {"": 2}}
    asked = set(re.findall(r"\bray_sapiens_ray_(\w+)", (ROOT / "jobs" / "grafana.json").read_text()))
    zero = {"device_input_wait_seconds_total"} if not waited else set()  # a counter appears with its first value
    assert asked <= set(found) | set(ended) | set(repeats) | zero, "the dashboard asks for what a job exports"
