"""Two outputs compared, from their files alone."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sapiens_ray.comparing.cells import Cells
from sapiens_ray.comparing.features import FeatureComparison
from sapiens_ray.comparing.join import Joined, join
from sapiens_ray.comparing.maps import DepthComparison, NormalComparison
from sapiens_ray.comparing.page import build_page
from sapiens_ray.comparing.pairing import TaskPair, pair_tasks
from sapiens_ray.comparing.pose import PersonComparison
from sapiens_ray.comparing.rows import Ids
from sapiens_ray.comparing.seg import ClassComparison
from sapiens_ray.comparing.settings import settings_that_differ
from sapiens_ray.comparing.shown import Pairs, Shown, show
from sapiens_ray.comparing.tasks import Measured, TaskComparison
from sapiens_ray.errors import OutputError
from sapiens_ray.output.reading import labels_of
from sapiens_ray.pages import render_page
from sapiens_ray.pages.gallery import MOST_ROWS
from sapiens_ray.reporting.about import About
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.depth import StoredDepth
from sapiens_ray.tasks.features import StoredFeatures
from sapiens_ray.tasks.normal import StoredNormal
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels, StoredPersons
from sapiens_ray.units import Row, Tell

AT_A_TIME = 8  # images whose cells are in memory, of both outputs


@dataclass(frozen=True)
class CompareOptions:
    """tasks: the columns to compare, `COLUMN` or `A_COLUMN:B_COLUMN`; all that have one name and kind if empty.

    images: how many are compared, a random sample; None for all. thumbnails: images that get pictures, at most. seed:
    of the samples. chosen: which rows of A are compared, in words, for the page; A is then a `ChosenRows`.
    """

    tasks: Sequence[str] = ()
    images: int | None = None
    thumbnails: int = 100
    seed: int = 0
    chosen: str = ""


@dataclass(frozen=True)
class Comparison:
    """statistics: JSON values, described in `docs/compare.md`. html: the page. agreements: by task, how far A and B
    agree, in a few words."""

    statistics: dict[str, Any]
    html: str
    agreements: dict[str, str]


def compare_outputs(
    a: Folder, b: Folder, options: CompareOptions | None = None, tell: Tell = lambda what, done, of: None
) -> Comparison:
    """Compare the labels of the images that both outputs hold.

    Only ids, places and one number per task are held of all images. tell: called again and again with what is being
    done. Raises OutputError if an output holds no labels, or they have no image in common; ConfigError for a wrong
    choice of tasks.
    """
    options = options or CompareOptions()
    labels_a, labels_b = labels_of(a), labels_of(b)
    paired = pair_tasks(labels_a, labels_b, options.tasks)
    about = About.of(a), About.of(b)
    joined, places = _join(a, b, options, tell)
    mask = next((one for one in labels_a if isinstance(one, StoredClassMap)), None)
    tasks = [_comparison(pair, mask) for pair in paired.pairs]
    pairs = _compare(a, b, places, tasks, tell)
    joined.counts.compared = len(pairs)
    shown = show((a, b), about, pairs, options.thumbnails, MOST_ROWS, options.seed, tell) if len(pairs) else None
    settings = settings_that_differ(*about, paired.pairs)
    page = build_page(
        *about, settings, joined.counts, joined.failed, paired, tasks, pairs, shown, options.chosen
    )  # fmt: skip
    statistics = {
        "a": about[0].result(),
        "b": about[1].result(),
        "settings": [asdict(one) for one in settings],
        "images": asdict(joined.counts),
        "errors": [asdict(one) for one in joined.failed],
        "tasks": {task.pair.name: {**task.result(), "most_different": _most(task, pairs, shown)} for task in tasks},
        "tasks_only_in_a": paired.only_in_a,
        "tasks_only_in_b": paired.only_in_b,
    }
    return Comparison(statistics, render_page(page), {task.pair.name: task.summary() for task in tasks})


def _join(a: Folder, b: Folder, options: CompareOptions, tell: Tell) -> tuple[Joined, _Places]:
    """The images in both, and where the rows to compare are. The ids are forgotten then."""
    ids = Ids.read(a, "A", tell), Ids.read(b, "B", tell)
    joined = join(*ids)
    if not joined.counts.in_both:
        raise OutputError(_nothing_in_common(a, b, ids))
    return joined, _places(ids, joined, options)


def _nothing_in_common(a: Folder, b: Folder, ids: tuple[Ids, Ids]) -> str:
    if not len(ids[0]):
        return f"{a.uri}: no row meets the condition"
    names = [one.ids[0].as_py() if len(one) else "(none)" for one in ids]
    return (
        f"{a.uri} and {b.uri} have no image in common: there they are called like {names[0]}, here like {names[1]}; "
        "rows are matched by image_id"
    )


Comparer = Callable[[TaskPair], TaskComparison]


def _comparison(pair: TaskPair, mask: StoredClassMap | None) -> TaskComparison:
    """The comparison of a task, by what its labels are and not by the name of the task."""
    kinds: tuple[tuple[type[StoredLabels], Comparer], ...] = (
        (StoredClassMap, ClassComparison), (StoredPersons, PersonComparison), (StoredFeatures, FeatureComparison),
        (StoredDepth, lambda one: DepthComparison(one, mask)), (StoredNormal, lambda one: NormalComparison(one, mask)),
        (StoredLabels, TaskComparison),
    )  # fmt: skip
    return next(make for stored, make in kinds if isinstance(pair.a, stored))(pair)


@dataclass(frozen=True)
class _Places:
    """Where the rows of the images to compare are: 2 x N int32 each, of A and B."""

    shards: np.ndarray
    indices: np.ndarray


def _places(ids: tuple[Ids, Ids], joined: Joined, options: CompareOptions) -> _Places:
    """The images with labels in both, or a random sample of them, in the order of A."""
    at = [joined.a, joined.b]
    if options.images is not None and options.images < len(joined.a):
        chosen = np.sort(np.random.default_rng(options.seed).permutation(len(joined.a))[: options.images])
        at = [one[chosen] for one in at]
    shards = np.stack([one.shards[rows] for one, rows in zip(ids, at, strict=True)])
    return _Places(shards, np.stack([one.indices[rows] for one, rows in zip(ids, at, strict=True)]))


def _compare(a: Folder, b: Folder, places: _Places, tasks: Sequence[TaskComparison], tell: Tell) -> Pairs:
    """Compare every image in every task, a few at a time."""
    total = places.shards.shape[1]
    differences = {task.pair.name: np.full(total, np.nan, np.float32) for task in tasks}
    columns_a = [column for task in tasks for column in (*task.columns[0], *task.needs)]
    columns_b = [column for task in tasks for column in task.columns[1]]
    with (
        Cells(a, ["image_id", *columns_a]) as cells_a, Cells(b, ["image_id", *columns_b]) as cells_b,
        ThreadPoolExecutor(min(AT_A_TIME, os.cpu_count() or 1), thread_name_prefix="compare") as pool,
    ):  # fmt: skip
        rows = _rows(cells_a, cells_b, places)
        done = 0
        while together := list(itertools.islice(rows, AT_A_TIME)):
            for measured in pool.map(lambda pair: _measure(tasks, *pair), together):
                for task, one in zip(tasks, measured, strict=True):
                    task.add(one)
                    differences[task.pair.name][done] = one.difference
                done += 1
                tell("images compared", done, total)
    return Pairs(places.shards, places.indices, differences)


def _rows(a: Cells, b: Cells, places: _Places) -> Iterator[tuple[Row, Row]]:
    for shards, indices in zip(places.shards.T.tolist(), places.indices.T.tolist(), strict=True):
        rows = a.row(shards[0], indices[0]), b.row(shards[1], indices[1])
        if rows[0]["image_id"] != rows[1]["image_id"]:
            raise OutputError(f"{rows[0]['image_id']}: an output was changed while it was read; compare again")
        yield rows


def _measure(tasks: Sequence[TaskComparison], a: Row, b: Row) -> list[Measured]:
    return [task.measure(a, b) for task in tasks]


def _most(task: TaskComparison, pairs: Pairs, shown: Shown | None) -> list[dict[str, Any]]:
    """The images that differ most, by name."""
    if shown is None:
        return []
    at = {place: number for number, place in enumerate(shown.places)}
    names = shown.rows["image_id"]
    values = pairs.differences[task.pair.name]
    return [
        {"image_id": names[at[place]].as_py(), "difference": float(values[place])}
        for place in pairs.most_different(task.pair.name)
        if place in at
    ]
