"""Where everything is in an output folder. No other module spells these names.

job.yaml                            the job, and the settings that decide the labels
plan.parquet, plan/entries-*.parquet    which images are in which shard
data/s<shard>-<start>-<stop>.parquet    labels
visualizations/                     pictures
attempts/                           notes on units whose worker died
summary.json                        counts of the last run
lock.json                           which run holds the folder
"""

from __future__ import annotations

import contextlib

from sapiens_ray.errors import OutputError
from sapiens_ray.storage import Folder, translate_errors, walk
from sapiens_ray.storage.retries import no_retries
from sapiens_ray.storage.uris import absolute
from sapiens_ray.units import UnitName

JOB_FILE = "job.yaml"
PLAN_FILE = "plan.parquet"
SUMMARY_FILE = "summary.json"
LOCK_FILE = "lock.json"

DATA = "data"
PICTURES = "visualizations"
ENTRIES = "plan"
ATTEMPTS = "attempts"

FILES = (JOB_FILE, PLAN_FILE, SUMMARY_FILE, LOCK_FILE)
FOLDERS = (DATA, PICTURES, ENTRIES, ATTEMPTS)

# What could be taken for images, in jobs whose input and output share a folder. Some storages list a file as a folder,
# too.
PARTS = tuple(f"{name}/" for name in (*FOLDERS, PLAN_FILE))


def is_in_output(output: Folder, uri: str) -> bool:
    """Whether a file or folder is one of FILES or FOLDERS of an output, or below one, under whatever name: through a
    link, through `..`, or where the part itself is a link."""
    folder, _, name = uri.rpartition("/")
    places = (absolute(uri), f"{absolute(folder or ('/' if uri.startswith('/') else '.'))}/{name}")
    named = [f"{absolute(output.uri)}/{part}" for part in (*FILES, *FOLDERS)]
    own = {*named, *map(absolute, named)}
    return any(f"{place}/".startswith(f"{part}/") for place in places for part in own)


def data_file(unit: UnitName) -> str:
    """The file with the rows of a unit, relative to the output."""
    return f"{DATA}/{unit.file}"


def picture_file(name: str) -> str:
    """The file of a picture with this name below the folder of pictures, relative to the output."""
    return f"{PICTURES}/{name}"


def entries_file(first_shard: int) -> str:
    """The file with the images of a shard and of the shards after it, relative to the output."""
    return f"{ENTRIES}/entries-{first_shard:06d}.parquet"


def entries_files(output: Folder) -> list[str]:
    """All files of entries of an output."""
    return [f"{ENTRIES}/{file}" for file in output.files(ENTRIES) if file.startswith("entries-")]


def attempts_file(unit: UnitName, stage: str) -> str:
    """The file with the notes on a unit in a stage, relative to the output."""
    return f"{ATTEMPTS}/{unit.file.removesuffix('.parquet')}.{stage}.json"


def attempts_of(output: Folder) -> list[tuple[str, UnitName, str]]:
    """(file, unit, stage) of all files with notes on units."""
    found = []
    for file in output.files(ATTEMPTS):
        name, _, stage = file.removesuffix(".json").partition(".")
        unit = UnitName.parse(f"{name}.parquet")
        if unit is not None:
            found.append((f"{ATTEMPTS}/{file}", unit, stage))
    return found


def data_units(output: Folder) -> list[UnitName]:
    """The units that have a file, whether or not its rows are in another file as well."""
    names = (UnitName.parse(file) for file in output.files(DATA))
    return [name for name in names if name is not None]


def sweep(output: Folder, pictures: bool) -> None:
    """Remove unfinished files that killed writers left. pictures: also among the pictures, which may be many."""
    output.sweep(deep=False)
    for name in (DATA, ENTRIES, ATTEMPTS, *((PICTURES,) if pictures else ())):
        output.sweep(name)


def has_pictures(output: Folder) -> bool:
    """Whether there is any file in the folder of pictures. False if the storage does not answer."""
    with contextlib.suppress(Exception), no_retries():
        if output.remote:  # object stores have no empty folders, and some list millions of files before the first
            return output.exists(PICTURES)
        return any(is_file for _, is_file in walk(Folder(output.join(PICTURES))))
    return False


def has_results(output: Folder) -> bool:
    """Whether a run has written to this folder."""
    with translate_errors(OutputError, f"output.uri: cannot read {output.uri}"):
        return any(output.exists(file) for file in (JOB_FILE, PLAN_FILE))
