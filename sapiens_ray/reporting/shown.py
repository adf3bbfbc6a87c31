"""The gallery of the report: the shown rows as columns."""

from __future__ import annotations

from collections.abc import Mapping

from sapiens_ray.output.summary import counted
from sapiens_ray.pages import Gallery, Layer, Measure, Vocabulary
from sapiens_ray.reporting.drawing import Thumbnail
from sapiens_ray.reporting.rows import LEAST_CONFIDENT, Shown, confidence_column, mask_column, measure_column
from sapiens_ray.reporting.statistics import Statistics
from sapiens_ray.reporting.tasks import TaskStatistics
from sapiens_ray.tasks.stored import StoredClassMap

MESSAGE = 300  # characters of the message of an error row


def build_gallery(statistics: Statistics, shown: Shown, pictures: Mapping[int, Thumbnail]) -> Gallery:
    """pictures: by the place of their row; empty ones are left out."""
    rows = shown.rows
    ordered = sorted(place for place, one in pictures.items() if one.photo or one.labels)
    thumbnails = [-1] * rows.num_rows
    for number, place in enumerate(ordered):
        thumbnails[place] = number
    kinds = rows["error_kind"].to_pylist()
    uris = rows["uri"].to_pylist()
    messages = rows["error"].to_pylist()
    unread = sum(not one.photo and kinds[place] is None for place, one in pictures.items())
    failed = [place for place, kind in enumerate(kinds) if kind is not None]
    return Gallery(
        ids=rows["image_id"].to_pylist(),
        errors=[kind or "" for kind in kinds],
        widths=rows["width"].to_pylist(),
        heights=rows["height"].to_pylist(),
        thumbnails=thumbnails,
        photos=[pictures[place].photo for place in ordered],
        layers=[_layer(task, shown, [pictures[place] for place in ordered]) for task in statistics.tasks],
        messages={place: (messages[place] or "")[:MESSAGE] for place in failed},
        places={place: uris[place] for place in sorted({*ordered, *failed}) if uris[place]},
        note=_note(statistics, shown, len(ordered), unread),
    )


def _layer(task: TaskStatistics, shown: Shown, pictures: list[Thumbnail]) -> Layer:
    rows = shown.rows
    confidence = mask_column(task.column), confidence_column(task.column)
    names = rows.column_names
    classes = None
    if isinstance(task.labels, StoredClassMap) and confidence[0] in names:
        masks = rows[confidence[0]].to_pylist()
        classes = Vocabulary(task.labels.class_names, task.labels.class_colours_rgb, masks)
    measures = [
        Measure(name, rows[measure_column(task.column, name)].to_pylist(), digits)
        for name, digits in task.digits.items()
        if measure_column(task.column, name) in names
    ]
    sure = rows[confidence[1]].to_numpy().tolist() if confidence[1] in names else None
    if sure is not None and all(value != value for value in sure):  # NaN: the output has no such column
        sure = None
    return Layer(
        task.column, [one.labels.get(task.column, "") for one in pictures], sure, task.confidence_name, classes,
        measures,
    )  # fmt: skip


def _note(statistics: Statistics, shown: Shown, drawn: int, unread: int) -> str:
    images = statistics.images
    if shown.complete:
        what = f"All {images:,} images."
    else:
        what = (
            f"{shown.rows.num_rows:,} of {images:,} images: a random sample, the {LEAST_CONFIDENT} least confident of "
            "every task, and error rows of every kind. The statistics above count all images."
        )
    if drawn < images:
        what += f" {drawn:,} of them have a picture here; the others show their data."
    if unread:
        what += f" {counted(unread, 'photo')} could not be read again: gone, changed, or in a shard over 4 GiB."
    return what
