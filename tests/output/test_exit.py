"""A process that read an output ends cleanly at once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.outputs import write_output

READ = """
import sys
from sapiens_ray import storage
from sapiens_ray.storage.parquet import read_table
folder = storage.Folder(sys.argv[1])
for name in sys.argv[2:]:
    assert read_table(folder, name).num_rows
"""
READ_LABELS = """
import sys
import sapiens_ray as sr
assert len(sr.read_labels(sys.argv[1])) == 3
"""
COUNT_THREADS = """
import os, sys
from sapiens_ray import storage
from sapiens_ray.output.reading import iterate_rows
from sapiens_ray.sources import parquet, Reading
from sapiens_ray.storage.parquet import read_table
folder = storage.Folder(sys.argv[1])
before = len(os.listdir("/proc/self/task"))
for name in sys.argv[2:]:
    read_table(folder, name)
assert len(list(iterate_rows(folder, ["image_id"]))) == 3
assert parquet.SOURCE.first_records(sys.argv[1] + "/" + sys.argv[2], Reading(passthrough=("uri",)), 1)
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_files_are_read_without_threads_that_outlive_the_call(tmp_path):
    write_output(tmp_path / "out", [("a.jpg", None, None)], [("b.jpg", None, None), ("c.jpg", None, None)])
    files = [f"data/{file.name}" for file in (tmp_path / "out" / "data").glob("*.parquet")]
    command = [sys.executable, "-c", COUNT_THREADS, str(tmp_path / "out"), *files]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0\n"


def test_a_process_that_ends_right_after_reading_does_not_abort(tmp_path):
    output = write_output(tmp_path / "out", [("a.jpg", None, None)], [("b.jpg", None, None), ("c.jpg", None, None)])
    files = [f"data/{file.name}" for file in (tmp_path / "out" / "data").glob("*.parquet")]
    assert len(files) == 2 and output.uri.endswith("/out")

    def read(number: int) -> tuple[int, str]:
        code = (READ, READ_LABELS)[number % 2]
        command = [sys.executable, "-c", code, str(tmp_path / "out"), *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    with ThreadPoolExecutor(4) as pool:  # busy cores are what made one in eight abort
        assert set(pool.map(read, range(40))) == {(0, "")}
