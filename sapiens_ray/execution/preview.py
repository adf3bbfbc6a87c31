"""A few images of a job, labelled in this process to be looked at: without Ray, and without touching the output.

The sample is planned, read, prepared, labelled and drawn by the code of a run, into a temporary folder.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sapiens_ray.engine.assemble import Contents
from sapiens_ray.engine.draw import draw_one, overlays, photo_of, without_half_labels
from sapiens_ray.engine.engine import Engine
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.prepare import prepare
from sapiens_ray.errors import ConfigError, InputError
from sapiens_ray.execution.preflight import PreparedJob, prepare_job
from sapiens_ray.execution.reading import UnitReader
from sapiens_ray.imaging.images import encode_picture
from sapiens_ray.imaging.names import picture_name
from sapiens_ray.job.config import Job
from sapiens_ray.pages import Page, Picture, Section, Sheet, Table, contact_sheet, render_page
from sapiens_ray.planning.subset import Subset
from sapiens_ray.storage import is_remote, local_path
from sapiens_ray.storage.uris import absolute, relative_to
from sapiens_ray.tasks import AnyTask
from sapiens_ray.units import Tell, Unit

UNIT_SIZE = 4  # images in memory at a time
SHEET_WIDTH, SHEET_COLUMNS = 1600, 6  # of the contact sheet, in pixels and pictures
SHEET_SIDE, PAGE_SIDE = 480, 900  # pixels: the longer side of a photo on the contact sheet, and on the page
SHEET_MOST, PAGE_MOST = 64, 200  # images on the contact sheet, and on the page; all get files
ID, PATH = "id", "path"  # columns of the list of the images that were named


@dataclass
class LabelledImage:
    """pictures: as a job draws them, by the column of the task; JPEG files. small: for the contact sheet: the photo,
    then what each task lays over it, h x w x 3 uint8 BGR. confidence: in words, by the column of the task. place: tells
    images with the same id apart, where ids may repeat. error: why there are no labels; empty if there are."""

    image_id: str
    place: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)
    small: dict[str, np.ndarray] = field(default_factory=dict)
    confidence: dict[str, str] = field(default_factory=dict)
    error_kind: str = ""
    error: str = ""


@dataclass
class Shown:
    """What is kept of the images for the contact sheet and the page: SHEET_MOST and PAGE_MOST of them."""

    sheet: list[LabelledImage] = field(default_factory=list)
    page: list[LabelledImage] = field(default_factory=list)
    failed: list[LabelledImage] = field(default_factory=list)

    def add(self, image: LabelledImage) -> None:
        """Keep an image, as far as it is shown."""
        if image.small and len(self.sheet) < SHEET_MOST:
            self.sheet.append(replace(image, pictures={}))
        group = self.failed if image.error_kind else self.page
        if len(group) < PAGE_MOST:
            group.append(replace(image, small={}))


@dataclass
class Preview:
    """What `preview` wrote.

    sheet: the contact sheet, a PNG; None if no image has labels. page: the HTML page. images: labelled ones and others.
    errors: by kind. failed: why images have no labels, by their ids. first_s: seconds until the first picture. notes:
    what else to tell.
    """

    folder: Path
    page: Path
    sheet: Path | None = None
    images: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    first_s: float | None = None
    notes: list[str] = field(default_factory=list)


def preview(
    job: Job,
    count: int = 16,
    seed: int = 0,
    images: Sequence[str] = (),
    to: str | Path | None = None,
    tell: Tell = lambda what, done, of: None,
) -> Preview:
    """Label a sample of a job, or the images named, and write a contact sheet and a page.

    count, seed: of the sample. images: paths or URLs, or names below the input folder, in place of a sample. to: the
    folder to write to; a new temporary one by default. tell: called with what is done, how many, of how many.
    Raises the errors that `run` would raise before it starts; but for the output, which is not looked at. Raises
    ConfigError for a folder that is remote, or in the output or the input of the job.
    """
    started = time.perf_counter()
    place_to_write = _place(job, str(to)) if to is not None else None
    with tempfile.TemporaryDirectory(prefix="sapiens-ray-plan-") as place:
        asked = _with_images(job, images, Path(place)) if images else job
        output = job.output.model_copy(update={"uri": str(Path(place) / "output"), "storage_options": {}})
        subset = Subset(len(images) if images else count, None if images else seed)
        tell("looking for images", 0, None)
        prepared = prepare_job(asked.model_copy(update={"output": output}), subset=subset)
        prepared.growth.publish()
        folder = place_to_write or Path(tempfile.mkdtemp(prefix="sapiens-ray-preview-"))
        _make_folder(folder)
        found = Preview(folder, folder / "preview.html")
        shown = Shown()
        for image in _labelled(prepared, lambda: tell("loading models", 0, None)):
            shown.add(image)
            found.images += 1
            if image.error_kind:
                found.errors[image.error_kind] += 1
            for column, picture in image.pictures.items():
                path = folder / "pictures" / column / picture_name(image.image_id, "jpg", image.place)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture)
                found.first_s = found.first_s or time.perf_counter() - started
            tell("images", found.images, prepared.expected)
    found.notes = _left_out(found)
    found.failed = {image.image_id: f"{image.error_kind}: {image.error}" for image in shown.failed}
    sheet = _sheet(shown.sheet)
    if sheet is not None:
        found.sheet = folder / "preview.png"
        found.sheet.write_bytes(encode_picture(sheet, "png", 0))
    found.page.write_text(render_page(_page(job, shown, found)), encoding="utf-8", errors="backslashreplace")
    return found


def _place(job: Job, to: str) -> Path:
    """The folder to write to. Raises ConfigError if it is remote, or in the output or the input of the job."""
    if is_remote(to):
        raise ConfigError(f"--to {to}: a preview is written to this machine; name a local folder")
    for what, uri in [("output", job.output.uri), *(("input", uri) for uri in job.input.uri)]:
        if f"{absolute(to)}/".startswith(f"{absolute(uri)}/"):
            raise ConfigError(f"--to {to}: lies in the {what} of the job, {uri}; name another folder")
    return Path(local_path(to))


def _make_folder(folder: Path) -> None:
    """Make the folder; remove the pictures of an earlier preview. Raises ConfigError if it cannot be made."""
    pictures = folder / "pictures"
    try:
        if (folder / "preview.html").is_file():
            shutil.rmtree(pictures, ignore_errors=True)
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--to {folder}: cannot be made: {error.strerror}; name a folder, not a file") from None


def _left_out(found: Preview) -> list[str]:
    """What the contact sheet and the page do not show, in words."""
    labelled = found.images - found.errors.total()
    groups = (("the contact sheet", "images", labelled, SHEET_MOST), ("the page", "images", labelled, PAGE_MOST),
              ("the page", "errors", found.errors.total(), PAGE_MOST))  # fmt: skip
    return [f"{where} shows the first {most} of {of} {what}" for where, what, of, most in groups if of > most]


def _labelled(prepared: PreparedJob, loading: Callable[[], None]) -> Iterator[LabelledImage]:
    """The images of the plan with their pictures, a few at a time."""
    job, tasks = prepared.job, prepared.tasks
    contents = Contents.of(job, prepared.box_files)
    reader = UnitReader(prepared.reading, contents, prepared.output, UNIT_SIZE, 1 << 30, prepared.plan.extra_schema)
    loading()
    engine = Engine(prepared.models, ModelHost(job.device))
    for works in prepared.work():
        for work in works:
            for unit in reader.units(work):
                wanted = work.wanted or ((unit.start, unit.start + unit.rows.num_rows),)
                done = without_half_labels(engine(prepare(unit, tasks, job.max_pixels)), tasks)
                yield from _images(done, wanted, prepared)


def _images(unit: Unit, wanted: Sequence[tuple[int, int]], prepared: PreparedJob) -> Iterator[LabelledImage]:
    settings = prepared.job.output.visualize.model_copy(update={"max_side": PAGE_SIDE})
    for position in range(unit.rows.num_rows):
        index = unit.start + position
        if not any(start <= index < stop for start, stop in wanted):
            continue
        row = unit.cells(position, ("image_id", "error_kind", "error"))
        place = f"{unit.shard}-{index}" if prepared.job.input.id_column else ""
        image = LabelledImage(row["image_id"], place, error_kind=row["error_kind"] or "", error=row["error"] or "")
        photo = None if image.error_kind else photo_of(unit, position, SHEET_SIDE)
        if photo is not None:
            image.pictures = _encoded(draw_one(unit, position, prepared.tasks, settings))
            image.small = {"photo": photo, **overlays(unit, position, photo, prepared.tasks)}
            image.confidence = {task.column: _confidence(unit, position, task) for task in prepared.tasks}
        yield image


def _confidence(unit: Unit, position: int, task: AnyTask) -> str:
    """How sure the model is of the labels of a row, in words; empty where nothing tells it."""
    cells = unit.cells(position, [field.name for field in task.fields])
    named = {"_confidence": "confidence", "_confidence_p05": "its 5 % quantile", "_length": "length"}
    found = {words: cells.get(f"{task.column}{ending}") for ending, words in named.items()}
    numbers = [f"{words} {value:.2f}" for words, value in found.items() if value is not None]
    first = cells[task.column]
    if isinstance(first, list) and first and isinstance(first[0], dict) and "score" in first[0]:
        numbers.append("score " + ", ".join(f"{person['score']:.2f}" for person in first[:5]))
    return ", ".join(numbers)


def _encoded(pictures: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The pictures as JPEG files, without those that are wider than a JPEG can be."""
    found: dict[str, bytes] = {}
    for column, picture in pictures.items():
        with contextlib.suppress(ValueError):
            found[column] = encode_picture(picture, "jpg", 90)
    return found


def _sheet(images: Sequence[LabelledImage]) -> np.ndarray | None:
    """The contact sheet: the pictures of an image side by side; None without pictures."""
    named = ((image.image_id, column, one) for image in images for column, one in image.small.items())
    small = [(image_id if column == "photo" else column, one) for image_id, column, one in named]
    if not small:
        return None
    each = max(len(image.small) for image in images)
    together = max(1, SHEET_COLUMNS // each)  # images in a row
    return contact_sheet(small, each * together, SHEET_WIDTH)


def _with_images(job: Job, images: Sequence[str], place: Path) -> Job:
    """The job with a list of these images as its input; each has the id that it has in the input, if it lies there."""
    needed = [*job.box_columns, *(str(mask.column) for mask in job.masks if mask.column)]
    if needed:
        raise InputError(
            f"--images: the job takes {needed[0]!r} of each image from a column of its input, which a file alone does "
            "not have; preview a sample (-n) instead"
        )
    lines = []
    for image in images:
        path, image_id = _find(job, image)
        lines.append(json.dumps({PATH: path, ID: image_id}))
    listed = place / "images.jsonl"
    listed.write_text("\n".join(lines))
    columns = {"image_column": PATH, "id_column": ID, "columns": []}
    changed = {"uri": [str(listed)], "format": "auto", "include": [], **columns}
    return job.model_copy(update={"input": job.input.model_copy(update=changed)})


def _find(job: Job, image: str) -> tuple[str, str]:
    """The path of an image and its id. Raises InputError if there is no such file, here or below the input."""
    if is_remote(image):
        return image, image
    here = Path(local_path(image)).expanduser()
    if here.is_file():
        absolute = str(here.absolute())
        for uri in job.input.uri:
            folder = f"{os.path.abspath(local_path(uri))}/" if not is_remote(uri) else ""
            if folder and absolute.startswith(folder):
                return absolute, absolute.removeprefix(folder)
        return absolute, image
    for uri in job.input.uri:
        path = relative_to(uri.rstrip("/"), image)
        if is_remote(uri) or Path(local_path(path)).is_file():
            return path, image
    raise InputError(f"--images: {image} is no file, neither here nor below {', '.join(job.input.uri)}")


def _page(job: Job, shown: Shown, found: Preview) -> Page:
    sections = [
        Section("Images", "images", [_large(image) for image in shown.page if image.pictures], wide=True),
    ]
    if shown.failed:
        rows = [[image.image_id, image.error_kind, image.error] for image in shown.failed]
        table = Table("Images without labels", ["image", "kind", "message"], rows)
        sections.append(Section("Errors", "errors", [table], wide=True))
    failed = found.errors.total()
    return Page(
        title=f"Preview of {job.name}" if job.name else "Preview",
        lead=f"{found.images} images, labelled to be looked at. Nothing was written to {job.output.uri}.",
        facts=[(str(found.images - failed), "labelled"), (str(failed), "errors")],
        sections=[section for section in sections if section.blocks],
        footer=". ".join([*found.notes, "All pictures are in the folder pictures/."]) if found.notes else "",
    )


def _large(image: LabelledImage) -> Sheet:
    pictures = [
        Picture(column, _data_uri(jpeg), image.confidence.get(column, "")) for column, jpeg in image.pictures.items()
    ]
    return Sheet(image.image_id, pictures, large=True)


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
