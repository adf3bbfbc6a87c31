"""Classes and keypoints of somebody's own: what a job says of a checkpoint that was trained on other labels.

Names may be referred to by name or by number; what is kept are numbers, so that equal meanings have equal settings.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal, TypeGuard, get_args

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from sapiens_ray.labels import KEYPOINT_COUNTS, ClassTable, KeypointTable
from sapiens_ray.labels.palette import BACKGROUND, Rgb, distinct_colours
from sapiens_ray.tasks.sections import Section, Settings

MOST_CLASSES = 255  # class maps have 8 bits, and 255 means "ignored" in ground truth
LONGEST_NAME = 100  # letters: pictures have legends
Group = Literal["body", "feet", "face", "left_hand", "right_hand", "extra"]
GROUPS: tuple[Group, ...] = get_args(Group)

# What is kept are numbers and #rrggbb; the schema for editors says what may be written.
_NAME_OR_NUMBER: Settings = {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]}
_BYTES: Settings = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}, "minItems": 3}
_SIGMA: Settings = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
Number = Annotated[int, WithJsonSchema(_NAME_OR_NUMBER)]
Pair = Annotated[
    tuple[int, int], WithJsonSchema({"type": "array", "items": _NAME_OR_NUMBER, "minItems": 2, "maxItems": 2})
]
Colour = Annotated[
    str, WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^#[0-9a-fA-F]{6}$"}, {**_BYTES, "maxItems": 3}]})
]
Sigmas = Annotated[tuple[float, ...], WithJsonSchema({"anyOf": [_SIGMA, {"type": "array", "items": _SIGMA}]})]


class _Described(Section):
    """What classes and keypoints have in common. A list alone stands for `names`."""

    names: tuple[str, ...] = Field(description="Names, in the order of the channels of the model.")
    colours: tuple[Colour, ...] | None = Field(
        None, description="One colour for each name, '#rrggbb' or [red, green, blue]; default: distinct ones."
    )
    flip_pairs: tuple[Pair, ...] = Field(
        (), description="Pairs of names (or numbers) that change places in a mirrored photo: [[left_eye, right_eye]]."
    )

    @model_validator(mode="before")
    @classmethod
    def _names_alone(cls, value: object) -> object:
        if not isinstance(value, dict | list | _Described):
            raise ValueError("should be a YAML file, a list of names, or a mapping with `names`")
        return {"names": value} if isinstance(value, list) else value

    @field_validator("names", mode="before")
    @classmethod
    def _check_names(cls, value: object) -> object:
        return checked_names(value)

    @field_validator("colours", mode="before")
    @classmethod
    def _check_colours(cls, value: object, info: ValidationInfo) -> object:
        if value is None:
            return None
        given = _listed(value, "a list of colours such as ['#ff8000', '#0080ff']")
        names = info.data.get("names")
        if names is not None and len(given) != len(names):
            raise ValueError(f"there are {len(given)} colours for {len(names)} names; give one for each, or none")
        return [_colour(one, f"[{place}]") for place, one in enumerate(given)]

    @field_validator("flip_pairs", mode="before")
    @classmethod
    def _check_pairs(cls, value: object, info: ValidationInfo) -> object:
        pairs = [(min(pair), max(pair)) for pair in _pairs(value, info)]
        counts = Counter(number for pair in pairs for number in pair)
        for place, pair in enumerate(pairs):
            twice = next((number for number in pair if counts[number] > 1), None)
            if twice is not None:
                raise ValueError(f"[{place}]: {info.data['names'][twice]!r} is in two pairs; it has one partner")
        return sorted(pairs)

    @property
    def rgb(self) -> tuple[Rgb, ...] | None:
        """The colours that are given."""
        return None if self.colours is None else tuple(_rgb(colour) for colour in self.colours)

    def result_settings(self) -> Settings:
        """Without what is not given, so that outputs are continued when there is more to give."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> Settings:
        """A path or URL, a list of names, or the mapping."""
        names: Settings = {"type": "array", "items": {"type": "string"}}
        return {"anyOf": [{"type": "string", "minLength": 1}, names, handler(core)]}


class OwnClasses(_Described):
    """The classes of a seg task."""

    background: Number = Field(0, description="The class that is no foreground, by its name or number.")

    @field_validator("names")
    @classmethod
    def _count(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not 2 <= len(value) <= MOST_CLASSES:
            raise ValueError(
                f"a class map has 2 classes (the background and one more) to {MOST_CLASSES}, not {len(value)}: it has "
                "8 bits, and 255 means 'ignored' in ground truth"
            )
        return value

    @field_validator("background", mode="before")
    @classmethod
    def _known(cls, value: object, info: ValidationInfo) -> object:
        return _number(value, info.data["names"]) if "names" in info.data else 0

    @property
    def table(self) -> ClassTable:
        return _class_table(self.names, self.rgb, self.flip_pairs, self.background)


class OwnKeypoints(_Described):
    """The keypoints of a pose task."""

    links: tuple[Pair, ...] = Field(
        (), description="Lines of the skeleton: pairs of names (or numbers from 0), in drawing order."
    )
    sigmas: Sigmas | None = Field(
        None,
        description="COCO's falloff constants for OKS: one for each name, or one number for all. For `evaluate`.",
    )
    groups: dict[Group, tuple[Number, ...]] = Field(
        {},
        description="Parts that `evaluate` scores apart: body, feet, face, left_hand, right_hand or extra, each with "
        "names (or numbers). What is in none is body.",
    )

    @field_validator("links", mode="before")
    @classmethod
    def _check_links(cls, value: object, info: ValidationInfo) -> object:
        return _pairs(value, info)

    @field_validator("sigmas", mode="before")
    @classmethod
    def _check_sigmas(cls, value: object, info: ValidationInfo) -> object:
        names = info.data.get("names")
        if value is None or names is None:
            return None
        given: list[object] = [value] * len(names) if not isinstance(value, list | tuple) else list(value)
        if len(given) != len(names):
            raise ValueError(f"there are {len(given)} sigmas for {len(names)} names; give one for each, or one for all")
        found = []
        for place, one in enumerate(given):
            if not _is_number(one) or not 0 < one <= 1:
                where = f"[{place}]: " if isinstance(value, list | tuple) else ""
                raise ValueError(f"{where}{one!r} is not above 0 and at most 1; COCO's are 0.025 to 0.107")
            found.append(float(one))
        return found

    @field_validator("groups", mode="before")
    @classmethod
    def _check_groups(cls, value: object, info: ValidationInfo) -> object:
        if value is None or "names" not in info.data:
            return {}
        if not isinstance(value, dict):
            raise ValueError("should be a mapping, such as {face: [nose, left_eye, right_eye]}")
        found: dict[str, list[int]] = {}
        for group, members in value.items():
            if group not in GROUPS:
                raise ValueError(f"{group!r} is not one of {', '.join(GROUPS)}{_similar(group, GROUPS)}")
            listed = _listed(members, "a list of names", f"{group}: ")
            found[group] = sorted(_number(one, info.data["names"], f"{group}: ") for one in listed)
        counts = Counter(number for members in found.values() for number in members)
        twice = next((number for number, count in counts.items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"{info.data['names'][twice]!r} is there twice; a keypoint is in one group")
        return {group: found[group] for group in GROUPS if group in found}

    @property
    def table(self) -> KeypointTable:
        groups = tuple((group, members) for group, members in self.groups.items())
        return _keypoint_table(self.names, self.rgb, self.flip_pairs, self.links, self.sigmas or (), groups)


def _published(value: object) -> object:
    """The value, if it is the number of keypoints of a published model."""
    if type(value) is int and value in KEYPOINT_COUNTS:
        return value
    raise ValueError("should be 17, 133 or 308, or describe keypoints of your own (docs/own-labels.md)")


# Tags in parentheses do not show in messages: they are no part of the job file.
Keypoints = Annotated[
    Annotated[Literal[17, 133, 308], BeforeValidator(_published), Tag("(published)")]
    | Annotated[OwnKeypoints, Tag("(own)")],
    Discriminator(lambda value: "(own)" if isinstance(value, dict | list | OwnKeypoints) else "(published)"),
]


@cache
def _class_table(
    names: tuple[str, ...], colours: tuple[Rgb, ...] | None, pairs: tuple[Pair, ...], background: int
) -> ClassTable:
    if colours is None:
        others = iter(distinct_colours(len(names) - 1))
        colours = tuple(BACKGROUND if number == background else next(others) for number in range(len(names)))
    return ClassTable(names, colours, pairs)


@cache
def _keypoint_table(
    names: tuple[str, ...],
    colours: tuple[Rgb, ...] | None,
    pairs: tuple[Pair, ...],
    links: tuple[Pair, ...],
    sigmas: tuple[float, ...],
    groups: tuple[tuple[str, tuple[int, ...]], ...],
) -> KeypointTable:
    colours = colours or distinct_colours(len(names))
    partner = {one: other for pair in pairs for one, other in (pair, pair[::-1])}
    group_of = {number: group for group, members in groups for number in members}
    return KeypointTable(
        names=names,
        colours=colours,
        swap=tuple(partner.get(number, number) for number in range(len(names))),
        groups=tuple(group_of.get(number, "body") for number in range(len(names))),
        sigmas=sigmas,
        links=links,
        link_colours=tuple(colours[end] for _, end in links),
    )


def checked_names(value: object) -> list[str]:
    """A list of names. Raises ValueError, which begins with the place of the entry, such as [3]."""
    names = _listed(value, "a list of names, such as [background, hat]")
    if not names:
        raise ValueError("the list is empty")
    first: dict[str, int] = {}
    for place, name in enumerate(names):
        if not isinstance(name, str):
            raise ValueError(f"[{place}]: {name!r} is not text; write it in quotes (YAML reads no, on and 1 as values)")
        if not name.strip():
            raise ValueError(f"[{place}]: is empty")
        if not name.isprintable() or "://" in name or len(name) > LONGEST_NAME:
            raise ValueError(f"[{place}]: {name[:40]!r} is not one line of at most {LONGEST_NAME} letters without ://")
        if name in first:
            raise ValueError(f"[{place}]: {name!r} is the name of entry {first[name]}, too; names must be unique")
        first[name] = place
    return names


def _listed(value: object, what: str, where: str = "") -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}should be {what}")
    return list(value)


def _number(value: object, names: Sequence[str], where: str = "") -> int:
    """The number of a name, or the number itself. Raises ValueError."""
    if value is None:
        raise ValueError(f"{where}has no value; give a name or a number from 0 to {len(names) - 1}")
    if isinstance(value, str):
        if value not in names:
            raise ValueError(f"{where}{value!r} is not one of the names{_similar(value, names)}")
        return list(names).index(value)
    if type(value) is not int or not 0 <= value < len(names):
        raise ValueError(f"{where}{value!r} is neither a name nor a number from 0 to {len(names) - 1}")
    return value


def _pairs(value: object, info: ValidationInfo) -> list[Pair]:
    """Pairs of names or numbers, as numbers. Raises ValueError, which begins with the place of the entry."""
    if value is None or "names" not in info.data:
        return []
    found = []
    for place, pair in enumerate(_listed(value, "a list of pairs, such as [[left_eye, right_eye]]")):
        where = f"[{place}]: "
        ends = _listed(pair, "a pair of names, such as [left_eye, right_eye]", where)
        if len(ends) != 2:
            raise ValueError(f"{where}has {len(ends)} entries; a pair has two")
        one, other = (_number(end, info.data["names"], where) for end in ends)
        if one == other:
            raise ValueError(f"{where}{info.data['names'][one]!r} is paired with itself")
        found.append((one, other))
    return found


def _colour(value: object, where: str) -> str:
    """#rrggbb of a colour in either form. Raises ValueError."""
    if value is None:
        raise ValueError(f"{where}: has no value; write colours in quotes, '#ff8000', since # begins a comment in YAML")
    if isinstance(value, list | tuple) and len(value) == 3:
        if all(type(one) is int and 0 <= one <= 255 for one in value):
            return "#{:02x}{:02x}{:02x}".format(*value)
    elif isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return value.lower()
    raise ValueError(f"{where}: {str(value)[:40]!r} is no colour; write '#ff8000' or [255, 128, 0]")


def _rgb(colour: str) -> Rgb:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _similar(name: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
