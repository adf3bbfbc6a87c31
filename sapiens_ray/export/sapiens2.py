"""The file formats of Sapiens2's programs, for scripts that read their output folders."""

from __future__ import annotations

from sapiens_ray.export.base import Export, Exported, Options
from sapiens_ray.export.filenames import write_files
from sapiens_ray.storage import Folder


def export_sapiens2(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write a folder per task that was made by a model of Sapiens2. It holds, for every image that has labels, the
    files that Sapiens2's demo for this task writes.

    Raises OutputError if there are no labels.
    """
    return write_files(source, target, lambda one: one.left_out_of_sapiens2, lambda one, row: one.sapiens2_files(row))


EXPORT = Export("the files that Sapiens2's programs write", export_sapiens2)
