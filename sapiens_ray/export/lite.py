"""The file formats of Sapiens-Lite, for scripts that read its output folders."""

from __future__ import annotations

from sapiens_ray.export.base import Export, Exported, Options
from sapiens_ray.export.filenames import write_each
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder
from sapiens_ray.units import Row


def export_lite(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write a folder per task. It holds, for every image that has labels, the files that the task provides for `lite`.

    Raises OutputError if there are no labels.
    """
    done = Exported()
    included = []
    for labels in labels_of(source):
        reason = labels.left_out_of_lite
        if reason:
            done.left_out[labels.column] = reason
        else:
            included.append(labels)

    def write(row: Row, name: str) -> None:
        for labels in included:
            for ending, data in labels.lite_files(row):
                target.write(f"{labels.column}/{name}{ending}", data, durable=False)

    if included:
        write_each(source, [column for labels in included for column in labels.columns], done, write)
    return done


EXPORT = Export("the files that Sapiens-Lite writes", export_lite)
