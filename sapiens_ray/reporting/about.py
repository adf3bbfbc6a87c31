"""What was labelled with what, how fast, and what the device did: from `job.yaml`, `summary.json`, the metadata of the
files and their modification times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sapiens_ray.errors import OutputError
from sapiens_ray.output.layout import DATA, SUMMARY_FILE
from sapiens_ray.output.record import Record, read_record
from sapiens_ray.output.summary import counted
from sapiens_ray.output.where import where_of
from sapiens_ray.storage import Folder
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.units import UnitName

STEPS = 24  # of the throughput over time
LEAST_FILES = 4  # with fewer, times say nothing
SHOWN_NAMES = 5  # of the classes or keypoints that a job describes
LABELS = ("classes", "keypoints")
Found = dict[str, Any]  # as JSON values


@dataclass(frozen=True)
class About:
    """What the files beside the rows say. record: `job.yaml`; summary: `summary.json`; each empty if there is none."""

    output: str
    record: Record
    summary: Found

    @classmethod
    def of(cls, folder: Folder) -> About:
        """Read the files of an output; what is missing, or was written by something else, is left out."""
        try:
            record = read_record(folder) or {}
        except OutputError:
            record = {}
        try:
            summary = json.loads(folder.read(SUMMARY_FILE))
        except (OSError, ValueError):
            summary = {}
        return cls(redact_uri(folder.uri), record, summary if isinstance(summary, dict) else {})

    @property
    def name(self) -> str:
        return str(self.summary.get("name") or self.record.get("job", {}).get("name") or "")

    @property
    def models(self) -> list[Found]:
        """The tasks of the job with their checkpoints: column, task, checkpoint, sha256, mode and other settings."""
        found = []
        files = self.record.get("models", [])
        for number, task in enumerate(self.record.get("job", {}).get("tasks", [])):
            file = files[number] if number < len(files) else {}
            found.append({
                "column": task.get("name") or ("persons" if task.get("task") == "pose" else task.get("task")),
                "task": task.get("task"),
                "checkpoint": str(file.get("checkpoint") or task.get("checkpoint") or ""),
                "sha256": str(file.get("sha256") or task.get("sha256") or ""),
                "mode": task.get("mode"),
                "settings": _settings(task),
            })  # fmt: skip
        return found

    @property
    def detectors(self) -> list[Found]:
        """The models after those of the tasks: person detectors."""
        files = self.record.get("models", [])[len(self.models) :]
        return [
            {"checkpoint": str(one.get("checkpoint") or ""), "sha256": str(one.get("sha256") or "")} for one in files
        ]

    def result(self) -> Found:
        """As JSON values."""
        keys = ("state", "message", "subset", "elapsed_s", "images_per_s", "repeated", "written_at", "device", "stages")
        return {
            "output": self.output,
            "name": self.name,
            "input": list(self.record.get("job", {}).get("input", {}).get("uri", [])),
            "fingerprint": self.record.get("fingerprint"),
            "versions": dict(self.record.get("versions") or {}),
            "models": self.models,
            "detectors": self.detectors,
            "last_run": {key: self.summary.get(key) for key in keys} if self.summary else None,
        }


_SHOWN_ELSEWHERE = {"task", "name", "checkpoint", "sha256", "mode", "actors", "num_gpus"}
_UNINTERESTING: Found = {
    "matmul": "strict", "compile": "none", "batch_size": None, "flip_test": False,
    "instances": {"source": "none", "seg": None},
    "rope": "bfloat16",
}  # fmt: skip


def _settings(task: Found) -> Found:
    """The settings of a task that say something, with `boxes` and `mask` as they are written in a job file."""
    found = {}
    for key, value in task.items():
        if key in _SHOWN_ELSEWHERE or (key in _UNINTERESTING and value == _UNINTERESTING[key]):
            continue
        if key in LABELS and isinstance(value, dict):
            value = _own_labels(value)
        elif key in LABELS and value is None:  # the 28 body parts, as before there was a choice
            continue
        elif isinstance(value, dict) and "source" in value:
            inner = value.get(value["source"])
            value = (
                f"{value['source']} ({inner})"
                if isinstance(inner, str) and inner != value["source"]
                else value["source"]
            )
        found[key] = value
    return found


def _own_labels(described: Found) -> str:
    """Classes or keypoints that a job describes, in a few words, which differ if the descriptions do."""
    names = [str(name) for name in described.get("names", [])]
    some = ", ".join(names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]
    return f"{len(names)}: {some} ({digest})"


@dataclass(frozen=True)
class Throughput:
    """Images by time of writing. start, end: of the writing; images: per step between them; note: what to know."""

    start: datetime | None
    end: datetime | None
    images: list[int]
    note: str

    def result(self) -> Found:
        """As JSON values."""
        told = self.start is not None and self.end is not None
        return {
            "start": self.start.isoformat() if self.start else None,
            "end": self.end.isoformat() if self.end else None,
            "images": self.images if told else [],
            "note": self.note,
        }


def throughput(folder: Folder, units: Sequence[UnitName]) -> Throughput:
    """Images over time, from the modification times of the files with labels. Not for a `ChosenRows`: which rows of a
    file are chosen says nothing of when they were written."""
    if where_of(folder) is not None:
        return Throughput(None, None, [], "Cannot be told of chosen images: files have times, their rows have none.")
    times = folder.modified(DATA)
    known = sorted((times[unit.file], unit.stop - unit.start) for unit in units if unit.file in times)
    if len(known) < LEAST_FILES:
        note = f"Cannot be told from {counted(len(known), 'file')} of labels with a time; {LEAST_FILES} are needed."
        return Throughput(None, None, [], note)
    first, last = known[0][0], known[-1][0]
    if last - first < 1:
        note = "Cannot be told: all files were written within a second, or were copied."
        return Throughput(None, None, [], note)
    images = [0] * STEPS
    for time, rows in known:
        images[min(STEPS - 1, int((time - first) / (last - first) * STEPS))] += rows
    note = (
        "From the modification times of the files with labels. A merged shard counts when it was merged, and a copy of "
        "the folder has times of its own."
    )
    return Throughput(datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC), images, note)
