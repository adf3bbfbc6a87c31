"""The file formats of Sapiens-Lite, for scripts that read its output folders."""

from __future__ import annotations

from sapiens_ray.export.base import Export, Exported, Options
from sapiens_ray.export.filenames import write_files
from sapiens_ray.storage import Folder


def export_lite(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write a folder per task. It holds, for every image that has labels, the files that the task provides for `lite`.

    Raises OutputError if there are no labels.
    """
    return write_files(source, target, lambda one: one.left_out_of_lite, lambda one, row: one.lite_files(row))


EXPORT = Export("the files that Sapiens-Lite writes", export_lite)
