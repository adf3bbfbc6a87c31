"""The columns of a task in an output folder, as used by readers, exports and the writer of files.

Built only from the metadata of the files, so labels can be read without the job that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from sapiens_ray.imaging.images import decode_map
from sapiens_ray.imaging.maps import decode_npy
from sapiens_ray.labels import ClassTable, KeypointTable, body_parts, known_keypoints
from sapiens_ray.tasks import confidence
from sapiens_ray.tasks.network import LITE, SAPIENS2
from sapiens_ray.units import Row

About = dict[str, Any]  # what the metadata of the files says about a column
MapSize = Literal["stored", "original"]
Decoder = Callable[[bytes, int, int], np.ndarray]  # cell, width and height of the photo
AsArrays = Callable[[Any], Any]  # a cell of lists -> the same with arrays
Files = list[tuple[str, bytes]]  # (ending, content) of the files of one image


@dataclass(frozen=True)
class MapColumn:
    """A column of encoded maps.

    stored, original: decode a cell, at the size in which it is stored and at the size of the photo. The dtypes and the
    number of dimensions describe the placeholder for the missing map of an error row.
    """

    stored: Decoder
    original: Decoder
    stored_dtype: str
    original_dtype: str
    dimensions: int

    def decoder(self, size: MapSize) -> Decoder:
        return self.stored if size == "stored" else self.original

    def without_elements(self, size: MapSize) -> np.ndarray:
        """The placeholder for the map of an error row, where None is not possible."""
        dtype = self.stored_dtype if size == "stored" else self.original_dtype
        return np.empty((0,) * self.dimensions, dtype)


class StoredLabels:
    """The columns of one task. The base class describes a task without maps, persons or files in exports.

    column: the task's column. about: its entry in the metadata of the files; `about["task"]` is its kind.
    """

    def __init__(self, column: str, about: About) -> None:
        self.column = column
        self.about = about

    @property
    def kind(self) -> str:
        return str(self.about["task"])

    @property
    def columns(self) -> list[str]:
        """The Parquet columns that exports read."""
        return [self.column]

    @property
    def maps(self) -> dict[str, MapColumn]:
        """The columns with encoded maps."""
        return {}

    @property
    def lists(self) -> dict[str, AsArrays]:
        """The columns with nested lists, and what makes arrays of them, which can be indexed by axis."""
        return {}

    @property
    def compressed(self) -> list[str]:
        """Columns whose cells Parquet does not compress: they are already, or it would not make them much smaller."""
        return []

    @property
    def pictures(self) -> list[str]:
        """The columns of maps that are PNGs, which viewers show as they are; others are `.npy`."""
        return []

    @property
    def recipe(self) -> str:
        """How the model's inputs were made and its outputs read (`tasks/network.py`)."""
        return str(self.about.get("recipe", LITE))

    @property
    def left_out_of_lite(self) -> str:
        """Why Sapiens-Lite's output has no files of this task; empty if `lite_files` gives them."""
        return f"Sapiens-Lite has no {self.kind}"

    def lite_files(self, row: Row) -> Files:
        """The files that Sapiens-Lite writes for one image."""
        return []

    @property
    def left_out_of_sapiens2(self) -> str:
        """Why the output of Sapiens2's programs has no files of this task; empty if `sapiens2_files` gives them."""
        if self.recipe != SAPIENS2:
            return "it was not made by a model of Sapiens2; `--format lite` writes the files of Sapiens-Lite"
        return self.unknown_to_sapiens2

    @property
    def unknown_to_sapiens2(self) -> str:
        """Why Sapiens2's programs do not write this task; empty if they do."""
        return f"Sapiens2's programs write no {self.kind}"

    def sapiens2_files(self, row: Row) -> Files:
        """The files that Sapiens2's programs write for one image."""
        return []


class StoredClassMap(StoredLabels):
    """A class map per image, as PNG; `about` has `class_names` and `class_colours_rgb`, in the order of the ids,
    and for classes of a user's own `class_swap_pairs` and `background`."""

    @property
    def maps(self) -> dict[str, MapColumn]:
        def decode(cell: bytes, width: int, height: int) -> np.ndarray:
            return decode_map(cell)

        return {self.column: MapColumn(decode, decode, "uint8", "uint8", 2)}

    @property
    def compressed(self) -> list[str]:
        return [self.column]

    @property
    def pictures(self) -> list[str]:
        return [self.column]

    @property
    def class_names(self) -> list[str]:
        return list(self.about["class_names"])

    @property
    def class_colours_rgb(self) -> list[list[int]]:
        return list(self.about["class_colours_rgb"])

    @property
    def class_swap_pairs(self) -> list[list[int]]:
        """Pairs of class ids that change places in a mirrored image."""
        pairs = self.about.get("class_swap_pairs")
        if pairs is None and tuple(self.class_names) == body_parts().names:
            pairs = body_parts().swap_pairs
        return [list(pair) for pair in pairs or ()]

    @property
    def background(self) -> int:
        """The id of the class that is no foreground."""
        return int(self.about.get("background", 0))

    def foreground(self, row: Row) -> np.ndarray:
        """H x W bool: where the class is not the background."""
        inside: np.ndarray = self.class_map(row) != self.background
        return inside

    def class_map(self, row: Row) -> np.ndarray:
        """H x W uint8."""
        return decode_map(row[self.column])


def instances_column(persons: str) -> str:
    """The column of the instance map of a column of persons."""
    return f"{persons}_instances"


class StoredPersons(StoredLabels):
    """A list of persons per image; `about` is what `about_keypoints` gives, and, if there is an instance map,
    `instances_of`: the column of the class map that it splits."""

    @property
    def maps(self) -> dict[str, MapColumn]:
        def decode(cell: bytes, width: int, height: int) -> np.ndarray:
            return decode_map(cell)

        if self.instances_of is None:
            return {}
        return {instances_column(self.column): MapColumn(decode, decode, "uint8", "uint8", 2)}

    @property
    def compressed(self) -> list[str]:
        return list(self.maps)

    @property
    def pictures(self) -> list[str]:
        return list(self.maps)

    @property
    def instances_of(self) -> str | None:
        """The column of the class map whose foreground is split in `<column>_instances`; None if there is no such
        map."""
        found: str | None = self.about.get("instances_of")
        return found

    @property
    def keypoint_names(self) -> list[str]:
        return list(self.about["keypoint_names"])

    @property
    def keypoint_links(self) -> list[list[int]]:
        return list(self.about["keypoint_links"])

    @property
    def keypoint_swap(self) -> list[int]:
        """The partner of each keypoint in a mirrored image, itself if it has none."""
        return list(self.table.swap)

    @property
    def keypoint_sigmas(self) -> list[float]:
        """COCO's falloff constants for OKS; empty if they are not known."""
        return list(self.table.sigmas)

    @cached_property
    def table(self) -> KeypointTable:
        """All that is known of the keypoints. Of published ones, `about` has names, links and partners; the rest is in
        their table."""
        about, names = self.about, tuple(self.about["keypoint_names"])
        if "keypoint_groups" not in about:
            known = known_keypoints(names)
            if known is not None:
                return known
        links = tuple((start, end) for start, end in about["keypoint_links"])
        grey = [[128, 128, 128]]
        return KeypointTable(
            names=names,
            colours=_colours(about.get("keypoint_colours_rgb", grey * len(names))),
            swap=tuple(about.get("keypoint_swap", range(len(names)))),
            groups=tuple(about.get("keypoint_groups", ["body"] * len(names))),
            sigmas=tuple(about.get("keypoint_sigmas", ())),
            links=links,
            link_colours=_colours(about.get("keypoint_link_colours_rgb", grey * len(links))),
        )

    @property
    def lists(self) -> dict[str, AsArrays]:
        return {self.column: persons_as_arrays}

    def persons(self, row: Row) -> list[Row]:
        """`box`, `box_score`, `keypoints`, `scores`, `score` and `visible` of each person; none for an error row.
        Outputs of earlier versions lack the last two: they are made from the others, as they are today."""
        found: list[Row] = row[self.column] or []
        return [person if person.get("score") is not None else _scored(person) for person in found]


def about_classes(table: ClassTable, background: int = 0) -> About:
    """What the metadata of the files says about a column with a class map. The rest of what is known of the 28 body
    parts is in their table."""
    about = {"class_names": list(table.names), "class_colours_rgb": [list(colour) for colour in table.colours]}
    if table == body_parts() and background == 0:
        return about
    return {**about, "class_swap_pairs": [list(pair) for pair in table.swap_pairs], "background": background}


def about_keypoints(table: KeypointTable) -> About:
    """What the metadata of the files says about a column with persons. The rest of what is known of published
    keypoints is in their table."""
    about = {
        "keypoint_names": list(table.names),
        "keypoint_links": [list(link) for link in table.links],
        "keypoint_swap": list(table.swap),
    }
    if table == known_keypoints(table.names):
        return about
    return {
        **about,
        "keypoint_groups": list(table.groups),
        "keypoint_sigmas": list(table.sigmas),
        "keypoint_colours_rgb": [list(colour) for colour in table.colours],
        "keypoint_link_colours_rgb": [list(colour) for colour in table.link_colours],
    }


def _colours(colours: Sequence[Sequence[int]]) -> tuple[tuple[int, int, int], ...]:
    return tuple((red, green, blue) for red, green, blue in colours)


def _scored(person: Row) -> Row:
    return {**person, **confidence.of_person(np.array(person["scores"], np.float32), person["box_score"])}


def persons_as_arrays(persons: Sequence[Row]) -> list[Row]:
    """The same persons with float32 arrays: `box` (4), `keypoints` (K x 2) and `scores` (K)."""
    return [
        {
            **person,
            "box": np.array(person["box"], np.float32),
            "keypoints": np.array(list(person["keypoints"]), np.float32).reshape(-1, 2),
            "scores": np.array(person["scores"], np.float32),
        }
        for person in persons
    ]


def stored_map(cell: bytes, width: int, height: int) -> np.ndarray:
    """A `.npy` cell as an array, at the stored size."""
    return decode_npy(cell)
