"""The images that the page shows: those that differ most in each task, and a random sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sapiens_ray.comparing.rows import rows_at
from sapiens_ray.comparing.tasks import TaskComparison
from sapiens_ray.pages import Gallery, Layer, Measure, Picture, Sheet
from sapiens_ray.reporting.about import About
from sapiens_ray.reporting.drawing import Drawer, Thumbnail
from sapiens_ray.storage import Folder
from sapiens_ray.units import Tell

ON_SHEET = 8  # images of a contact sheet
SIDES = ("A", "B")


@dataclass(frozen=True)
class Pairs:
    """The compared images. shards, indices: the places of their rows in A and in B, each 2 x N int32. differences: by
    task N float32, NaN where the labels could not be compared."""

    shards: np.ndarray
    indices: np.ndarray
    differences: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return int(self.shards.shape[1])

    def most_different(self, task: str) -> list[int]:
        """The images that differ most in a task, at most ON_SHEET, none that is equal."""
        values = self.differences[task]
        some = np.flatnonzero(values > 0)
        order = some[np.argsort(-values[some], kind="stable")]
        return [int(place) for place in order[:ON_SHEET]]


@dataclass(frozen=True)
class Drawn:
    """Thumbnails of an image: those of its row in A, and in B."""

    a: Thumbnail
    b: Thumbnail


@dataclass(frozen=True)
class Shown:
    """rows: of A, a table with the columns BASE, in the order of `places` (positions in Pairs). drawn: by position."""

    places: list[int]
    rows: pa.Table
    drawn: Mapping[int, Drawn]


def choose_shown(pairs: Pairs, most: int, seed: int) -> tuple[list[int], list[int]]:
    """Positions of at most `most` images, ascending, and the same images in the order in which pictures are drawn: the
    most different of each task, then random ones."""
    extremes = [pairs.most_different(task) for task in pairs.differences]
    turns = [one[turn] for turn in range(ON_SHEET) for one in extremes if turn < len(one)]
    random = np.random.default_rng(seed).permutation(len(pairs))[:most].tolist()
    wanted = list(dict.fromkeys([*turns, *random]))[:most]
    return sorted(wanted), wanted


def show(
    folders: tuple[Folder, Folder], about: tuple[About, About], pairs: Pairs, thumbnails: int, most: int, seed: int,
    tell: Tell,
) -> Shown:  # fmt: skip
    """Read what the page says about the chosen images, and draw `thumbnails` of them."""
    places, order = choose_shown(pairs, most, seed)
    rows = rows_at(folders[0], pairs.shards[0, places], pairs.indices[0, places])
    chosen = order[:thumbnails]
    made: list[dict[int, Thumbnail]] = []
    for side, (folder, one) in enumerate(zip(folders, about, strict=True)):
        wanted = rows_at(folder, pairs.shards[side, chosen], pairs.indices[side, chosen]).to_pylist()
        found: dict[int, Thumbnail] = {}
        for number, (at, thumbnail) in enumerate(Drawer(folder, one.record).draw(wanted), 1):
            found[chosen[at]] = thumbnail
            tell(f"pictures of {SIDES[side]} drawn", number, len(wanted))
        made.append(found)
    drawn = {place: Drawn(made[0][place], made[1][place]) for place in chosen}
    return Shown(places, rows, {place: one for place, one in drawn.items() if one.a.photo or one.a.labels})


def sheets_of(shown: Shown, pairs: Pairs, tasks: Sequence[TaskComparison]) -> list[Sheet]:
    """A contact sheet per task, with A and B side by side, for the images that differ most."""
    at = {place: number for number, place in enumerate(shown.places)}
    ids = shown.rows["image_id"].to_pylist()
    sheets = []
    for task in tasks:
        name = task.pair.name
        pictures = []
        for place in pairs.most_different(name):
            drawn = shown.drawn.get(place)
            sources = [
                one.labels.get(column, "") or one.photo
                for one, column in ((drawn.a, task.pair.a.column), (drawn.b, task.pair.b.column))
            ] if drawn else ["", ""]  # fmt: skip
            detail = f"{float(pairs.differences[name][place]):.{task.digits}f}"
            if place in at:
                pictures.append(Picture(ids[at[place]], sources[0], detail, at[place], sources[1]))
        if pictures:
            note = f"A on the left, B on the right. Ordered by {task.difference_name}, largest first."
            sheets.append(Sheet(f"Differ most: {name}", pictures, note))
    return sheets


def build_gallery(shown: Shown, pairs: Pairs, tasks: Sequence[TaskComparison]) -> Gallery:
    """The gallery: a layer per task, whose pictures switch between A, B and the photo."""
    ordered = [place for place in shown.places if place in shown.drawn]
    numbers = {place: number for number, place in enumerate(ordered)}
    drawn = [shown.drawn[place] for place in ordered]
    layers = []
    for task in tasks:
        values = pairs.differences[task.pair.name][shown.places].tolist()
        layers.append(
            Layer(
                task.pair.name, [one.a.labels.get(task.pair.a.column, "") for one in drawn],
                measures=[Measure("difference", values, task.digits)],
                others=[one.b.labels.get(task.pair.b.column, "") for one in drawn],
            )
        )  # fmt: skip
    uris = shown.rows["uri"].to_pylist()
    if len(shown.places) == len(pairs):
        note = f"All {len(pairs):,} compared images."
    else:
        note = f"{len(shown.places):,} of {len(pairs):,} compared images: those that differ most, and a random sample."
    if len(ordered) < len(shown.places):
        note += f" {len(ordered):,} of them have a picture here; the others show their data."
    return Gallery(
        ids=shown.rows["image_id"].to_pylist(),
        errors=[""] * len(shown.places),
        widths=shown.rows["width"].to_pylist(),
        heights=shown.rows["height"].to_pylist(),
        thumbnails=[numbers.get(place, -1) for place in shown.places],
        photos=[one.a.photo or one.b.photo for one in drawn],
        layers=layers,
        places={numbers[place]: uris[at] for at, place in enumerate(shown.places) if place in numbers and uris[at]},
        note=note,
        sides=SIDES,
    )
