"""The files in jobs/: what can be checked of them without Kubernetes, Docker, Grafana and Slurm."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.version import Version

from sapiens_ray.execution.metrics import COUNTERS, GAUGES
from sapiens_ray.job.config import Job
from tests.conftest import ROOT

JOBS = ROOT / "jobs"


def lint(tool: str, *files: object) -> None:
    """Run a linter of the dev dependencies."""
    found = shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)
    assert found, f"{tool} is missing: pip install -e '.[dev]'"
    done = subprocess.run([found, *map(str, files)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_shellcheck_and_hadolint_find_nothing():
    lint("shellcheck", JOBS / "slurm.sh")
    lint("hadolint", JOBS / "Dockerfile")


def test_the_dockerfile_copies_what_the_package_is_built_from():
    """As test_install.py builds the wheel. What is not copied is not sent to Docker either."""
    text = (JOBS / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for word in line.split()}
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "sapiens_ray"}
    assert all((ROOT / name).exists() for name in copied)
    ignored = (JOBS / "Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*" and {f"!{name}" for name in copied} <= set(ignored)
    assert text.index("\nUSER 1000\n") < text.index("\nCMD ")


# Fields of RayJob and RayCluster of ray.io/v1 (KubeRay 1.5.1) that a file like ours may use, after the API reference,
# docs.ray.io/en/latest/cluster/kubernetes/references.html. We found no package on PyPI that holds the CRD itself.
NUMBER = {"type": "integer", "minimum": 0}
PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}  # `num-cpus: 0` would be refused
POD = {
    "type": "object",
    "required": ["spec"],
    "properties": {"spec": {"type": "object", "required": ["containers"]}, "metadata": {"type": "object"}},
    "additionalProperties": False,
}
CLUSTER = {
    "type": "object",
    "required": ["headGroupSpec"],
    "additionalProperties": False,
    "properties": {
        "rayVersion": {"type": "string"},
        "authOptions": {"type": "object", "properties": {"mode": {"enum": ["token", "disabled"]}}},
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": {"type": "object"},
        "headGroupSpec": {
            "type": "object", "required": ["template"], "additionalProperties": False,
            "properties": {"rayStartParams": PARAMS, "template": POD, "serviceType": {"type": "string"}},
        },
        "workerGroupSpecs": {
            "type": "array",
            "items": {
                "type": "object", "required": ["groupName", "minReplicas", "maxReplicas", "template"],
                "additionalProperties": False,
                "properties": {
                    "groupName": {"type": "string"}, "replicas": NUMBER, "minReplicas": NUMBER, "maxReplicas": NUMBER,
                    "idleTimeoutSeconds": NUMBER, "rayStartParams": PARAMS, "template": POD, "numOfHosts": NUMBER,
                },
            },
        },
    },
}  # fmt: skip
RAY_JOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["entrypoint", "rayClusterSpec"],
            "additionalProperties": False,
            "properties": {
                "entrypoint": {"type": "string"}, "runtimeEnvYAML": {"type": "string"},
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
                "shutdownAfterJobFinishes": {"type": "boolean"}, "ttlSecondsAfterFinished": NUMBER,
                "activeDeadlineSeconds": NUMBER, "backoffLimit": NUMBER, "suspend": {"type": "boolean"},
                "submitterPodTemplate": POD, "rayClusterSpec": CLUSTER,
            },
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    return list(yaml.safe_load_all((JOBS / "rayjob.yaml").read_text()))


def test_the_rayjob_has_the_fields_of_its_api(documents):
    config, job = documents
    assert (config["apiVersion"], config["kind"]) == ("v1", "ConfigMap")
    jsonschema.validate(job, RAY_JOB)
    with pytest.raises(jsonschema.ValidationError):  # a check that can fail
        jsonschema.validate({**job, "spec": {**job["spec"], "shutDownAfterJobFinishes": True}}, RAY_JOB)


def test_the_pods_of_the_rayjob_fit_together(documents):
    config, job = documents
    cluster = job["spec"]["rayClusterSpec"]
    assert Version(cluster["rayVersion"]) >= Version("2.60") and Version(version("ray")) >= Version("2.60")
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes), "each volume is mounted"
        assert volumes["job"]["configMap"]["name"] == config["metadata"]["name"]
        shared, memory = volumes["shm"]["emptyDir"], container["resources"]["limits"]["memory"]
        assert shared["medium"] == "Memory" and gibibytes(shared["sizeLimit"]) < gibibytes(memory), (
            "it counts as memory"
        )
        disk = sum(gibibytes(one["emptyDir"]["sizeLimit"]) for name, one in volumes.items() if name in ("ray", "cache"))
        assert disk <= gibibytes(container["resources"]["requests"]["ephemeral-storage"]) or group is groups[0]
        assert container["resources"]["requests"]["memory"] == memory
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
    assert len({group["template"]["spec"]["containers"][0]["image"] for group in groups}) == 1


def gibibytes(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()  # type: ignore[union-attr]
    assert unit == "Gi"
    return int(number)


def test_the_job_in_the_rayjob_is_valid(documents, tmp_path):
    config, job = documents
    name = job["spec"]["entrypoint"].rpartition("/")[2]
    (tmp_path / name).write_text(config["data"][name])
    loaded = Job.load(tmp_path / name)
    most = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]
    assert loaded.actors.max == most and [task.column for task in loaded.tasks] == ["seg", "persons"]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((JOBS / "grafana.json").read_text())
    return found


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_dashboard_is_one_for_grafana(dashboard):
    assert dashboard["schemaVersion"] >= 39 and dashboard["title"] and dashboard["uid"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    sources = [*panels, *(target for panel in panels for target in panel["targets"]), variables["job"]]
    assert {one["datasource"]["uid"] for one in sources} == {"${datasource}"}
    taken = set()
    for panel in panels:
        assert panel["title"] and panel["description"] and panel["type"] in ("timeseries", "stat", "gauge")
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, f"{panel['title']} overlaps another panel"
        taken |= cells
    for query in queries(dashboard):
        assert query.count("(") == query.count(")") and set(re.findall(r"\$\w+", query)) <= {"$job", "$__rate_interval"}


def test_the_dashboard_shows_every_metric(dashboard):
    """tests/e2e/test_metrics.py looks whether a job exports them under these names."""
    named = {name for query in queries(dashboard) for name in re.findall(r"\bray_\w+", query)}
    counters = {f"ray_sapiens_ray_{name}_total" for name in COUNTERS}
    assert named == counters | {f"ray_sapiens_ray_{name}" for name in GAUGES}
