"""Time, peak memory and size of the page of `sapiens-ray report`, for a synthetic output.

    python benchmarks/report.py                  # 1,000,000 rows
    python benchmarks/report.py --rows 100000

The output has the columns of a job with seg, depth, normal and pose (17 keypoints), confidence included, in shards of
1000 rows and row groups of 64, as a finished job has them. Its maps are empty, since the report reads no maps but for
thumbnails, and its photos do not exist: `--thumbnails 0`. The report runs in a process of its own, as a user's does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

SHARD, GROUP = 1000, 64


def lists(counts: np.ndarray, items: pa.Array) -> pa.ListArray:
    """Lists of so many items, one after the other."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32()), items)


def seg_columns(random: np.random.Generator, rows: int) -> dict[str, pa.Array]:
    """Twelve of 28 classes in every photo."""
    classes = np.sort(random.permuted(np.tile(np.arange(28, dtype=np.int8), (rows, 1)), axis=1)[:, :12], axis=1)
    counts = np.full(rows, 12)
    area = random.dirichlet(np.ones(12), rows).astype(np.float32).reshape(-1)
    sure = random.uniform(0.2, 1, rows * 12).astype(np.float32)
    return {
        "seg_classes": lists(counts, pa.array(classes.reshape(-1))),
        "seg_area": lists(counts, pa.array(area)),
        "seg_confidence": pa.array(random.uniform(0.3, 1, rows).astype(np.float32)),
        "seg_confidence_p05": pa.array(random.uniform(0.1, 0.6, rows).astype(np.float32)),
        "seg_class_confidence": lists(counts, pa.array(sure)),
    }


def persons_column(random: np.random.Generator, rows: int) -> pa.ListArray:
    """0 to 3 persons in every photo."""
    counts = random.integers(0, 4, rows)
    people = int(counts.sum())
    corner = random.uniform(0, 500, (people, 2))
    boxes = np.hstack([corner, corner + random.uniform(20, 500, (people, 2))]).astype(np.float32)
    points = pa.FixedSizeListArray.from_arrays(pa.array(random.uniform(0, 1000, people * 34).astype(np.float32)), 2)
    scores = random.uniform(0, 1, people * 17).astype(np.float32)
    seventeen = np.full(people, 17)
    person = pa.StructArray.from_arrays(
        [
            pa.FixedSizeListArray.from_arrays(pa.array(boxes.reshape(-1)), 4),
            pa.array(random.uniform(0.3, 1, people).astype(np.float32)),
            lists(seventeen, points.cast(pa.list_(pa.float32(), 2))),
            lists(seventeen, pa.array(scores)),
            pa.array(random.uniform(0, 1, people).astype(np.float32)),
            pa.array(random.integers(0, 18, people).astype(np.int32)),
        ],
        ["box", "box_score", "keypoints", "scores", "score", "visible"],
    )
    return lists(counts, person)


def shard_table(number: int, schema: pa.Schema) -> pa.Table:
    """One shard; one row of a hundred is an error row, without labels."""
    random = np.random.default_rng(number)
    index = np.arange(SHARD, dtype=np.int32)
    names = [f"train/{number:05d}/photo_{row:04d}.jpg" for row in range(SHARD)]
    failed = random.random(SHARD) < 0.01
    nothing = pa.array([b""] * SHARD, pa.binary())
    near = random.uniform(0, 0.3, SHARD).astype(np.float32)
    head = {
        "image_id": pa.array(names),
        "shard": pa.array(np.full(SHARD, number, np.int32)),
        "index": pa.array(index),
        "uri": pa.array([f"/data/photos/{name}" for name in names]),
        "width": pa.array(random.integers(400, 4000, SHARD).astype(np.int32)),
        "height": pa.array(random.integers(400, 4000, SHARD).astype(np.int32)),
        "error_kind": pa.array(["corrupt" if bad else None for bad in failed], pa.string()),
        "error": pa.array(["cannot be decoded" if bad else None for bad in failed], pa.string()),
        "visualization": pa.nulls(SHARD, pa.string()),
    }
    labels = {
        "seg": nothing,
        **seg_columns(random, SHARD),
        "depth": nothing,
        "depth_min": pa.array(near),
        "depth_max": pa.array(near + random.uniform(0, 0.7, SHARD).astype(np.float32)),
        "normal": nothing,
        "normal_length": pa.array(random.uniform(0.3, 1, SHARD).astype(np.float32)),
        "persons": persons_column(random, SHARD),
    }
    good = pa.array([None if bad else row for row, bad in enumerate(failed)], pa.int64())
    return pa.table({**head, **{name: column.take(good) for name, column in labels.items()}}).cast(schema)


def write_output(folder: Path, rows: int) -> None:
    """An output of so many rows, with a plan and `job.yaml`, without photos."""
    import pyarrow.parquet as pq

    from sapiens_ray.job.config import Job
    from sapiens_ray.output.schema import output_schema, with_errors
    from sapiens_ray.planning.plan import Plan, Shard, save_plan
    from sapiens_ray.storage import Folder
    from sapiens_ray.tasks import make_task
    from sapiens_ray.units import UnitName

    tasks: list[dict[str, Any]] = [
        {"task": "seg"},
        {"task": "depth"},
        {"task": "normal"},
        {"task": "pose", "keypoints": 17},
    ]
    named = [{**task, "checkpoint": f"/models/{task['task']}.pt2"} for task in tasks]
    job = Job.parse({"input": {"uri": "/data"}, "output": {"uri": str(folder)}, "tasks": named})
    schema = with_errors(output_schema([make_task(one) for one in job.tasks], pa.schema([]), {}), {"corrupt": 10})
    (folder / "data").mkdir(parents=True)
    shards = [Shard(number, "images", "/data", f"/data#{number}", images=SHARD) for number in range(rows // SHARD)]
    save_plan(Plan(shards, GROUP, pa.schema([])), Folder(str(folder)))
    for shard in shards:
        path = folder / "data" / UnitName(shard.number, 0, SHARD, True).file
        pq.write_table(shard_table(shard.number, schema), path, row_group_size=GROUP, compression="zstd")


def main() -> None:
    """Write the output, unless --output names one, and measure the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="a multiple of 1000")
    parser.add_argument("--output", type=Path, help="measure an output that is there")
    parser.add_argument("--thumbnails", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        output = arguments.output or Path(scratch) / "out"
        if arguments.output is None:
            started = time.perf_counter()
            write_output(output, arguments.rows)
            print(f"wrote {arguments.rows} rows in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        page = Path(scratch) / "report.html"
        command = [sys.executable, "-m", "sapiens_ray", "report", str(output), "--to", str(page),
                   "--thumbnails", str(arguments.thumbnails), "--json"]  # fmt: skip
        started = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=dict(os.environ))
        seconds = time.perf_counter() - started
        found = json.loads(done.stdout)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        rate = found["images"] / seconds
        print("     rows      s   rows/s   peak MiB   page MB")
        print(f"{found['images']:9d} {seconds:6.1f} {rate:8.0f} {peak:10.0f} {page.stat().st_size / 1e6:9.1f}")


if __name__ == "__main__":
    main()
