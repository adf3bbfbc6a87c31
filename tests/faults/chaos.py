"""Random kills, reproducible by a seed, and a table of their effect on the rows.

    python -m tests.faults.chaos --kills 50 --seed 1

A job on several Ray nodes reads photos and tars from S3 and writes to S3, while drivers, actors, workers, the
coordinator, whole nodes and the storage fail. A dead driver is started again, as its user would do. When the job is
done, every image must have its row once, every picture must exist, and no file may be torn. Then the next job starts,
with a new output.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import psutil
import pyarrow.parquet as pq
import yaml

from tests.archives import write_tar
from tests.conftest import PATIENCE_S, ROOT, write_photos
from tests.s3_server import S3, s3_server

PHOTOS, IN_TARS, UNIT = 100, 60, 4
FAULTS = ("driver", "actor", "worker", "coordinator", "node", "storage")


@dataclass
class Chaos:
    """Counts of faults, and of lost and doubled rows that were found after each job."""

    seed: int
    times: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    doubled: Counter[str] = field(default_factory=Counter)
    ended: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    jobs: int = 0
    to_come: list[str] = field(default_factory=list)

    def table(self) -> str:
        lines = [f"{'fault':12} {'times':>5} {'rows lost':>9} {'doubled':>7}  job ended how"]
        for fault in FAULTS:
            how = ", ".join(f"{count} {what}" for what, count in self.ended[fault].most_common())
            lines.append(f"{fault:12} {self.times[fault]:>5} {self.lost[fault]:>9} {self.doubled[fault]:>7}  {how}")
        return "\n".join([*lines, f"{self.jobs} jobs of {PHOTOS + IN_TARS} images done, seed {self.seed}"])


class Nodes:
    """A cluster of a head and two nodes, with one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.others = [self.cluster.add_node(num_cpus=1) for _ in range(2)]

    def lose_one(self, dice: random.Random) -> None:
        """Kill a node with all its workers (SIGKILL); another one joins."""
        node = self.others.pop(dice.randrange(len(self.others)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.others.append(self.cluster.add_node(num_cpus=1))


def run(kills: int, seed: int, folder: Path, say: Callable[[str], None] = print) -> Chaos:
    """Run jobs until there were so many kills. Raises AssertionError if an output is torn or wrong."""
    from sapiens_ray.models.stand_ins import write_model

    dice, chaos = random.Random(seed), Chaos(seed)
    write_model(folder / "model.pt2")
    nodes = Nodes()
    try:
        with s3_server() as s3:
            expected = _fill(s3, folder)
            while sum(chaos.times.values()) < kills:
                output, before = f"s3://bucket/labels-{chaos.jobs}", chaos.times.copy()
                _one_job(chaos, dice, kills, nodes, s3, folder, output, say)
                lost, doubled = _check(s3, output.removeprefix("s3://"), expected)
                for fault in chaos.times - before:
                    chaos.lost[fault] += lost
                    chaos.doubled[fault] += doubled
                chaos.jobs += 1
    finally:
        nodes.cluster.shutdown()
    return chaos


def _fill(s3: S3, folder: Path) -> list[str]:
    """Upload photos and two tars. Returns their image ids in order."""
    files = write_photos(folder / "photos", PHOTOS + IN_TARS)
    direct = s3.direct
    direct.mkdir("bucket")
    for file in files[:PHOTOS]:
        direct.put_file(str(file), f"bucket/in/photos/{file.name}")
    ids = [f"photos/{file.name}" for file in files[:PHOTOS]]
    for number, start in enumerate(range(PHOTOS, PHOTOS + IN_TARS, IN_TARS // 2)):
        part = files[start : start + IN_TARS // 2]
        write_tar(folder / f"{number}.tar", part)
        direct.put_file(str(folder / f"{number}.tar"), f"bucket/in/tars/{number}.tar")
        ids += [f"tars/{number}.tar/{file.name}" for file in part]
    return ids


def _one_job(
    chaos: Chaos, dice: random.Random, kills: int, nodes: Nodes, s3: S3, folder: Path, output: str,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Run one job to its end, starting it again when its driver dies."""
    job = {
        "input": {"uri": ["s3://bucket/in/photos/", "s3://bucket/in/tars/*.tar"], "shard_size": 25},
        "output": {"uri": output, "storage_options": s3.options},
        "tasks": [{"task": "seg", "checkpoint": str(folder / "model.pt2")}],
        "unit_size": UNIT,
    }
    job["input"]["storage_options"] = s3.options
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    driver = _start(path, nodes, folder / "log.txt")
    since_start: list[str] = []
    deadline = time.monotonic() + 3 * PATIENCE_S
    while True:
        end = time.monotonic() + dice.uniform(0.5, 4.0)
        while time.monotonic() < end and driver.poll() is None:
            time.sleep(0.05)
        assert time.monotonic() < deadline, f"no end in sight:\n{(folder / 'log.txt').read_text()[-3000:]}"
        code = driver.poll()
        if code is not None:
            how = {0: "done", -9: "killed, run again"}.get(code, f"exit {code}, run again")
            for fault in since_start or ["driver"] * (code != 0):
                chaos.ended[fault][how] += 1
            since_start = []
            if code == 0:
                return
            driver = _start(path, nodes, folder / "log.txt")
            continue
        if sum(chaos.times.values()) >= kills:
            continue
        if not chaos.to_come:  # all kinds occur before one is repeated
            chaos.to_come = dice.sample(FAULTS, len(FAULTS))
        fault = chaos.to_come[-1]
        if _strike(fault, dice, driver, nodes, s3):
            chaos.to_come.pop()
            chaos.times[fault] += 1
            since_start.append(fault)
            say(f"{sum(chaos.times.values()):3} {fault}")


def _start(path: Path, nodes: Nodes, log: Path) -> subprocess.Popen[bytes]:
    executable = Path(sys.executable).parent / "sapiens-ray"
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with log.open("ab") as file:
        command = [executable, "run", path, "--address", nodes.cluster.address]
        return subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=env)


def _strike(fault: str, dice: random.Random, driver: subprocess.Popen[bytes], nodes: Nodes, s3: S3) -> bool:
    """Cause a fault; False if there is no process of this kind at the moment."""
    if fault == "driver":
        driver.kill()
        driver.wait()
    elif fault == "node":
        nodes.lose_one(dice)
    elif fault == "storage":
        s3.down = True
        time.sleep(dice.uniform(1.0, 4.0))
        s3.down = False
    else:
        titles = {"actor": "ray::MapWorker", "worker": ("ray::MapBatches", "ray::merge"), "coordinator": "ray::Coord"}
        children = psutil.Process().children(recursive=True)
        victims = [process for process in children if _title(process).startswith(titles[fault])]
        if not victims:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            dice.choice(victims).kill()
    return True


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        line = process.cmdline()
        return line[0] if line and process.status() != psutil.STATUS_ZOMBIE else ""
    return ""


def _check(s3: S3, output: str, expected: list[str]) -> tuple[int, int]:
    """Numbers of lost and doubled rows. Raises AssertionError for wrong rows, missing pictures and leftover files."""
    direct = s3.direct
    rows: list[tuple[str, str | None, str | None, bytes | None]] = []
    files = sorted(direct.ls(f"{output}/data", detail=False))
    for file in files:
        with direct.open(file) as stream:
            table = pq.read_table(stream, columns=["image_id", "error_kind", "visualization", "seg"])
        rows += zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    wrong = [row[:2] for row in rows if row[1] is not None or not row[3]]
    assert not wrong, wrong
    pictures = set(direct.find(f"{output}/visualizations"))
    assert {f"{output}/{row[2]}" for row in rows} == pictures
    assert len(files) == PHOTOS // 25 + 2, files
    left = [name for name in direct.find(output) if "/attempts/" in name or name.endswith("lock.json")]
    assert not left, left
    counts = Counter(row[0] for row in rows)
    return len(set(expected) - set(counts)), sum(counts.values()) - len(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        print(run(arguments.kills, arguments.seed, Path(name)).table())


if __name__ == "__main__":
    main()
