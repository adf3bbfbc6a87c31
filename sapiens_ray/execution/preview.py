"""A few images of a job, labelled in this process to be looked at: without Ray, and without touching the output.

The sample is planned, read, prepared, labelled and drawn by the code of a run, into a temporary folder.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sapiens_ray.engine.assemble import Contents
from sapiens_ray.engine.draw import draw_one, overlays, photo_of, without_half_labels
from sapiens_ray.engine.engine import Engine
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.prepare import prepare
from sapiens_ray.errors import InputError
from sapiens_ray.execution.preflight import PreparedJob, prepare_job
from sapiens_ray.execution.reading import UnitReader
from sapiens_ray.imaging.images import encode_picture
from sapiens_ray.imaging.names import picture_name
from sapiens_ray.job.config import Job
from sapiens_ray.pages import Page, Picture, Section, Sheet, Table, contact_sheet, data_uri, render_page
from sapiens_ray.planning.subset import Subset
from sapiens_ray.storage import is_remote, local_path
from sapiens_ray.storage.uris import relative_to
from sapiens_ray.units import Unit

UNIT_SIZE = 4  # images in memory at a time
SHEET_WIDTH, SHEET_COLUMNS = 1600, 6  # of the contact sheet, in pixels and pictures
SHEET_SIDE, PAGE_SIDE = 480, 900  # pixels: the longer side of a photo on the contact sheet, and on the page
ID, PATH = "id", "path"  # columns of the list of the images that were named


@dataclass
class LabelledImage:
    """pictures: as a job draws them, by the column of the task. small: for the contact sheet: the photo, then what each
    task lays over it; all h x w x 3 uint8 BGR. error: why there are no labels; empty if there are."""

    image_id: str
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    small: dict[str, np.ndarray] = field(default_factory=dict)
    error_kind: str = ""
    error: str = ""


@dataclass
class Preview:
    """What `preview` wrote.

    sheet: the contact sheet, a PNG; None if no image has labels. page: the HTML page. images: labelled ones and others.
    errors: by kind. first_s: seconds until the first picture.
    """

    folder: Path
    page: Path
    sheet: Path | None = None
    images: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    first_s: float | None = None


def preview(
    job: Job,
    count: int = 16,
    seed: int = 0,
    images: Sequence[str] = (),
    to: Path | None = None,
    tell: Callable[[str, int, int | None], None] = lambda what, done, of: None,
) -> Preview:
    """Label a sample of a job, or the images named, and write a contact sheet and a page.

    count, seed: of the sample. images: paths or URLs, or names below the input folder, in place of a sample. to: the
    folder to write to; a new temporary one by default. tell: called with what is done, how many, of how many.
    Raises the errors that `run` would raise before it starts; but for the output, which is not looked at.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sapiens-ray-plan-") as place:
        asked = _with_images(job, images, Path(place)) if images else job
        output = job.output.model_copy(update={"uri": str(Path(place) / "output"), "storage_options": {}})
        subset = Subset(len(images) if images else count, None if images else seed)
        tell("looking for images", 0, None)
        prepared = prepare_job(asked.model_copy(update={"output": output}), subset=subset)
        prepared.growth.publish()
        folder = to or Path(tempfile.mkdtemp(prefix="sapiens-ray-preview-"))
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        found = Preview(folder, folder / "preview.html")
        shown: list[LabelledImage] = []
        for image in _labelled(prepared, lambda: tell("loading models", 0, None)):
            shown.append(image)
            found.images += 1
            if image.error_kind:
                found.errors[image.error_kind] += 1
            for column, picture in image.pictures.items():
                name = f"{column}-{picture_name(image.image_id, 'jpg').replace('/', '-')}"
                (folder / "pictures" / name).write_bytes(encode_picture(picture, "jpg", 90))
                found.first_s = found.first_s or time.perf_counter() - started
            tell("images", len(shown), prepared.expected)
    sheet = _sheet(shown)
    if sheet is not None:
        found.sheet = folder / "preview.png"
        found.sheet.write_bytes(encode_picture(sheet, "png", 0))
    found.page.write_text(render_page(_page(job, shown, found)), encoding="utf-8", errors="backslashreplace")
    return found


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
        image = LabelledImage(row["image_id"], error_kind=row["error_kind"] or "", error=row["error"] or "")
        photo = None if image.error_kind else photo_of(unit, position, SHEET_SIDE)
        if photo is not None:
            image.pictures = draw_one(unit, position, prepared.tasks, settings)
            image.small = {"photo": photo, **overlays(unit, position, photo, prepared.tasks)}
        yield image


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


def _page(job: Job, images: Sequence[LabelledImage], found: Preview) -> Page:
    sections = [
        Section("Images", "images", [_large(image) for image in images if image.pictures], wide=True),
    ]
    failed = [image for image in images if image.error_kind]
    if failed:
        rows = [[image.image_id, image.error_kind, image.error] for image in failed]
        table = Table("Images without labels", ["image", "kind", "message"], rows)
        sections.append(Section("Errors", "errors", [table], wide=True))
    labelled = len(images) - len(failed)
    return Page(
        title=f"Preview of {job.name}" if job.name else "Preview",
        lead=f"{len(images)} images, labelled to be looked at. Nothing was written to {job.output.uri}.",
        facts=[(str(labelled), "labelled"), (str(len(failed)), "errors")],
        sections=[section for section in sections if section.blocks],
    )


def _large(image: LabelledImage) -> Sheet:
    pictures = [Picture(column, data_uri(picture)) for column, picture in image.pictures.items()]
    return Sheet(image.image_id, pictures, large=True)
