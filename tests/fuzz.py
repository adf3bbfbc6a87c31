"""Fuzzing: gives damaged images, tars, lists and tables to the readers.

    python -m tests.fuzz --minutes 10 [--seed 1]

Runs in a separate process, since a reader that crashes kills its process. Untrusted bytes may give rows, an ImageError
or an InputError; nothing else, and in bounded time and memory.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from sapiens_ray.errors import ImageError, InputError
from sapiens_ray.imaging import images
from sapiens_ray.sources import Encoded, Images, Reading, lists, parquet, webdataset
from sapiens_ray.sources.base import cut_units
from sapiens_ray.units import Done
from tests.conftest import photo

MAX_PIXELS = 1_000_000
SLOW_S = 300.0  # for a file that takes milliseconds
FOUND = Path(tempfile.gettempdir()) / "sapiens-ray-fuzz-found"
ENDINGS = [".jpg", ".png", ".webp", ".bmp", ".tiff", ".jp2", ".gif", ".ppm", ".pfm", ".ras", ".hdr", ".avif"]


def _encoded() -> list[bytes]:
    """The same image in every format that this OpenCV writes."""
    found = []
    for ending in ENDINGS:
        array = photo(40, 30) if ending not in (".pfm", ".hdr") else photo(40, 30).astype(np.float32)
        try:
            done, data = cv2.imencode(ending, array)
        except cv2.error:
            continue
        if done:
            found.append(data.tobytes())
    return found


def _tar(members: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, data in enumerate(members):
            info = tarfile.TarInfo(f"{number // 2}.{'jpg' if number % 2 else 'json'}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _parquet(cells: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    rows = [{"bytes": cell, "path": f"{number}.jpg"} for number, cell in enumerate(cells)]
    pq.write_table(pa.table({"image": rows, "n": list(range(len(cells)))}), buffer, row_group_size=2)
    return buffer.getvalue()


PICTURES = _encoded()
TAR = _tar([b'{"boxes": []}', PICTURES[0]] * 3)
PARQUET = _parquet(PICTURES[:5])


class Damaged(bytes):
    """Bytes with a short repr, so that a counterexample does not fill the screen."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes, see {FOUND}>"


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> Damaged:
    """One of the originals with some bytes changed, cut off, inserted or repeated; headers more often than the rest."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 6))):
        end = draw(st.sampled_from([min(64, len(data)), len(data)]))
        place = draw(st.integers(0, max(0, end - 1)))
        change = draw(st.sampled_from(["flip", "set", "cut", "insert", "repeat", "number"]))
        if change == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif change == "set" and data:
            data[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif change == "cut":
            del data[place:]
        elif change == "insert":
            data[place:place] = draw(st.binary(max_size=32))
        elif change == "repeat":
            data[place:place] = data[place : place + 64]
        elif change == "number":  # sizes and offsets
            data[place : place + 4] = draw(st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"]))
    return Damaged(data)


def decode_images(data: bytes) -> None:
    images.header_size(data)
    try:
        found = images.decode(data, MAX_PIXELS)
    except ImageError as error:
        assert error.kind in ("empty", "not_an_image", "corrupt", "zero_size", "too_large"), error.kind
        return
    assert found.dtype == np.uint8 and found.ndim == 3 and 0 < found.shape[0] * found.shape[1] <= MAX_PIXELS


def check_rows(rows: Images) -> None:
    """Check that indices have no gaps, every row has bytes or an error, and units contain each row once."""
    counted: list[Encoded] = []

    def through() -> Images:
        total = yield from rows
        return total

    units = list(cut_units(through(), 3, 1 << 20))
    for unit, last in units:
        counted += unit
        assert last == (unit is units[-1][0])
    assert [row.index for row in counted] == list(range(len(counted)))
    assert all((row.data is None) != (row.error is None) or row.data is not None for row in counted)


def read_tars(folder: Path, data: bytes) -> None:
    path = folder / "x.tar"
    path.write_bytes(data)
    check_rows(webdataset.read(str(path), "x.tar", Done(), Reading(labels=("boxes",))))


def read_tables(folder: Path, data: bytes) -> None:
    path = folder / "x.parquet"
    path.write_bytes(data)
    check_rows(parquet.read(str(path), "x.parquet", Done(), Reading(passthrough=("n",))))


def read_lists(folder: Path, data: bytes) -> None:
    for ending in (".txt", ".csv", ".jsonl"):
        path = folder / f"x{ending}"
        path.write_bytes(data)
        try:
            for entry in lists.SOURCE.entries(str(path), "", Reading()):
                json.dumps(entry.image_id).encode()
        except InputError:
            continue


def within_limits(target: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        faulthandler.dump_traceback_later(SLOW_S, exit=True)  # a hang is a failure with a stack
        try:
            target(data)
        except Exception:
            FOUND.write_bytes(data)
            raise
        faulthandler.cancel_dump_traceback_later()

    return run


def _one_round(target: Callable[[bytes], None], originals: list[bytes], round_seed: int) -> int:
    count = 0

    @seed(round_seed)
    @settings(
        max_examples=150, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(damaged(originals))
    def one(data: Damaged) -> None:
        nonlocal count
        count += 1
        within_limits(target)(data)

    one()
    return count


def fuzz(minutes: float, first_seed: int) -> int:
    """Give damaged files to every reader until the time is over. Returns their number; raises at the first failure."""
    lists = [b"path,n\na.jpg,1\nb.jpg,2\n", b'{"path": "a.jpg"}\n"b.jpg"\n', "a\u2028.jpg\n\xff.jpg\n".encode()]
    end = time.monotonic() + 60 * minutes
    tried = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        targets = [
            (decode_images, PICTURES),
            (lambda data: read_tars(folder, data), [TAR]),
            (lambda data: read_tables(folder, data), [PARQUET]),
            (lambda data: read_lists(folder, data), lists),
        ]
        round_seed = first_seed
        while time.monotonic() < end:
            for target, originals in targets:
                tried += _one_round(target, originals, round_seed)
            round_seed += 1
    return tried


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # a decompression bomb must not fill the machine
    print(f"{fuzz(arguments.minutes, arguments.seed)} damaged files, seeds from {arguments.seed}: nothing crashed")


if __name__ == "__main__":
    main()
