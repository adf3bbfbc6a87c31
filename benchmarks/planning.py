"""Time and memory of the driver for millions of images: the first plan, and the resume of a finished job.

    python benchmarks/planning.py 1000000 10000000

A generator of names replaces the listing of images, and the files under `data/` are copies of one small Parquet file.
The rest is done as in a real job: `prepare_job`, `save_job`, the count of errors. Each line is measured in a separate
process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHARD = 1000


def job_file(folder: Path) -> Path:
    """Write a job file that labels the synthetic input into `folder`/out."""
    from sapiens_ray.models.stand_ins import write_model

    (folder / "photos").mkdir(parents=True, exist_ok=True)
    write_model(folder / "model.pt2")
    text = f"""
input: {{uri: {folder}/photos, shard_size: {SHARD}}}
output: {{uri: {folder}/out}}
tasks: [{{task: seg, checkpoint: {folder}/model.pt2}}]
"""
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def finish(folder: Path, images: int) -> None:
    """Write the files of a finished job: one per shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sapiens_ray.units import UnitName

    data = folder / "out" / "data"
    data.mkdir(parents=True)
    metadata = {"sapiens_ray.errors": json.dumps({"truncated": 1})}
    row = {"image_id": ["x"], "error_kind": ["truncated"], "error": ["ends early"]}
    schema = pa.schema([(name, pa.string()) for name in row], metadata=metadata)
    pq.write_table(pa.table(row, schema=schema), folder / "one.parquet")
    for shard in range(images // SHARD):
        shutil.copy(folder / "one.parquet", data / UnitName(shard, 0, SHARD, True).file)


def measure(step: str, folder: Path, images: int) -> dict[str, Any]:
    """Run one step in this process. Returns seconds, and peak resident memory in MB before and after the step."""
    from sapiens_ray import storage
    from sapiens_ray.execution.preflight import prepare_job, save_job
    from sapiens_ray.job.config import Job
    from sapiens_ray.output.error_rows import errors_in_files

    def walk(folder: Any, enter: Any = None) -> Iterator[tuple[str, bool]]:
        for number in range(images):
            yield f"{number // 1000:06d}/{number:09d}.jpg", True

    storage.walk = walk  # replaces the function that planning/discovery.py calls
    job = Job.load(job_file(folder))
    before = peak()
    started = time.perf_counter()
    prepared = prepare_job(job)
    if step == "plan":
        save_job(prepared)
    else:
        errors, _ = errors_in_files(prepared.output, prepared.files)
        assert sum(errors.values()) == images // SHARD
        assert not prepared.pending
    return {"seconds": time.perf_counter() - started, "peak": peak(), "before": before}


def peak() -> float:
    """Peak of resident memory so far, MB. From /proc: ru_maxrss starts at that of the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("images", type=int, nargs="*", default=[100_000])
    parser.add_argument("--one", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], Path(arguments.one[1]), arguments.images[0])))
        return
    print(f"{'images':>12} {'step':8} {'seconds':>8} {'peak MB':>8} {'of which at start':>18} {'on disk MB':>11}")
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for step in ("plan", "resume"):
                if step == "resume":
                    finish(folder, images)
                command = [sys.executable, __file__, str(images), "--one", step, name]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
                found = json.loads(done.stdout.splitlines()[-1])
                plan = [folder / "out" / "plan.parquet", *(folder / "out" / "plan").iterdir()]
                size = sum(file.stat().st_size for file in plan) / 1e6
                print(
                    f"{images:>12,} {step:8} {found['seconds']:>8.1f} {found['peak']:>8.0f} "
                    f"{found['before']:>18.0f} {size:>11.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
