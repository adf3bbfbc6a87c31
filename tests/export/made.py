"""Outputs with labels of all kinds, and the photos that they belong to, as a run leaves them, but made without one."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from sapiens_ray import storage
from sapiens_ray.job.config import Job
from sapiens_ray.output.schema import ERRORS_KEY
from sapiens_ray.planning.plan import EntriesFile, Plan, Shard, save_plan
from sapiens_ray.sources import Entry
from sapiens_ray.storage import Folder
from sapiens_ray.units import UnitName
from tests.archives import tar_bytes
from tests.reporting.made import TASKS, Row, error_row, labelled_photo, schema

Planned = tuple[Shard, Sequence[Row]]  # a shard, and its rows


def write_planned(
    folder: Path,
    uri: Path | str,
    shards: Sequence[Planned],
    entries: EntriesFile | None = None,
    tasks: Sequence[Row] = TASKS,
) -> Folder:
    """An output with these shards, each complete in one file, and with what a run records. uri: the input."""
    output = Folder(str(folder))
    (folder / "data").mkdir(parents=True)
    found = schema(tasks=tasks).append(pa.field("key", pa.string()))
    metadata = {**found.metadata, ERRORS_KEY: json.dumps({})}
    for shard, rows in shards:
        placed = [{**row, "shard": shard.number, "index": index} for index, row in enumerate(rows)]
        table = pa.Table.from_pylist(placed, found.with_metadata(metadata))
        pq.write_table(table, folder / "data" / UnitName(shard.number, 0, len(rows), True).file, row_group_size=16)
    if entries is not None:
        entries.publish(output)
    save_plan(Plan([shard for shard, _ in shards], 64, pa.schema([])), output)
    job: dict[str, Any] = {"input": {"uri": str(uri)}, "output": {"uri": str(folder)}, "tasks": list(tasks)}
    record = {"job": Job.parse(job).public_dict(), "fingerprint": "abc", "models": [], "versions": {}}
    output.write("job.yaml", yaml.safe_dump(record).encode())
    return output


def folder_output(
    folder: Path, photos: Path, names: Sequence[str], uri: str = "", tasks: Sequence[Row] = TASKS
) -> Folder:
    """Labels of photos in a folder; the second row is the error row of a photo that cannot be read. uri: of the folder,
    if the job read a copy of it elsewhere."""
    place = uri or str(photos)
    rows = [{**labelled_photo(photos, name, seed), "uri": f"{place}/{name}"} for seed, name in enumerate(names)]
    rows.insert(1, error_row("broken.jpg"))
    entries = EntriesFile(0)
    group = entries.add([Entry(f"{place}/{row['image_id']}", row["image_id"]) for row in rows])
    shard = Shard(0, "images", str(photos), f"{photos}#0", images=len(rows), entries=entries.name, group=group)
    return write_planned(folder, photos, [(shard, rows)], entries, tasks)


def tar_output(folder: Path, place: Path, tars: dict[str, Sequence[str]], suffix: str = ".tar") -> Folder:
    """Labels of photos in tars. tars: members by the name of the tar; `bad` in one makes an error row of it."""
    shards: list[Planned] = []
    for number, (tar, members) in enumerate(tars.items()):
        path = place / f"{tar}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows, files = [], []
        for seed, member in enumerate(members):
            row = labelled_photo(place / "loose", member, 10 * number + seed)
            named = member.removeprefix("./").lstrip("/")  # as the source names it
            data = (place / "loose" / member).read_bytes()
            parent, slash, base = named.rpartition("/")
            key = f"{parent}{slash}{base.split('.')[0]}"
            if "bad" in member:
                row, data = error_row(""), b"\x89PNG no more"
            rows.append({**row, "key": key, "image_id": f"{path.name}/{named}", "uri": f"{path}#{named}"})
            files.append((member, data))
            if seed == 0:
                files.append((f"{member.removesuffix(named)}{key}.txt", b"a caption"))
        path.write_bytes(tar_bytes(files))
        if suffix != ".tar":
            path.write_bytes(packed(path))
        size, stamp = storage.stamp(str(path))
        shards.append((Shard(number, "webdataset", str(path), path.name, size, stamp, len(rows)), rows))
    return write_planned(folder, place, shards)


def parquet_output(folder: Path, path: Path, names: Sequence[str]) -> Folder:
    """Labels of photos in a Parquet file, whose columns `key` and `image` hold a text and the photo. Their keys in the
    output are those of the file."""
    rows = [labelled_photo(path.parent / "loose", name, seed) for seed, name in enumerate(names)]
    files = [(path.parent / "loose" / name).read_bytes() for name in names]
    boxes = [[[10.0, 10.0, 110.0, 150.0]]] * len(names)
    pq.write_table(pa.table({"image": files, "key": list(names), "boxes": boxes}), path)
    placed = [
        {**row, "key": name, "image_id": f"{path.name}/{index:08d}", "uri": f"{path}#{index}"}
        for index, (row, name) in enumerate(zip(rows, names, strict=True))
    ]
    size, stamp = storage.stamp(str(path))
    return write_planned(folder, path, [(Shard(0, "parquet", str(path), path.name, size, stamp, len(rows)), placed)])


def packed(path: Path) -> bytes:
    import gzip

    return gzip.compress(path.read_bytes())


def members_of(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
        return {member.name: member for member in tar}
