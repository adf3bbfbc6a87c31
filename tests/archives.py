"""Tars and Parquet files for tests, as other tools write them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path


def tar_bytes(members: Iterable[tuple[str, bytes]], end: bool = True, format: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of the members; with end=False it stops after the last member, without end-of-archive blocks."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        stop = tar.offset
    return buffer.getvalue() if end else buffer.getvalue()[:stop]


def write_tar(path: Path, files: Iterable[Path], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for file in files:
            tar.add(file, arcname=file.name)


def write_parquet(path: Path, files: list[Path], struct: bool = True, **options: object) -> None:
    """A Parquet file with an image column as Hugging Face writes it (or plain bytes), an id and a caption."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = [file.read_bytes() for file in files]
    images = [{"bytes": one, "path": file.name} for one, file in zip(data, files, strict=True)] if struct else data
    table = pa.table(
        {
            "image": pa.array(images),
            "name": [file.stem for file in files],
            "caption": [f"caption of {file.name}" for file in files],
            "score": [number / 10 for number in range(len(files))],
        }
    )
    pq.write_table(table, path, **options)
