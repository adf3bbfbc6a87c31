"""How a task is compared: the interface, and that of tasks about which only equality can be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sapiens_ray.comparing.pairing import TaskPair
from sapiens_ray.pages import Block, Facts, Note, Section
from sapiens_ray.pages.blocks import Cell
from sapiens_ray.reporting.numbers import Spread
from sapiens_ray.reporting.words import linear_histogram
from sapiens_ray.units import Row

Result = dict[str, Any]  # as JSON values
EXAMPLES = 5  # images that are named for each reason
AT_A_TIME = 1 << 20  # pixels of a map that are compared in one step


class Incomparable(Exception):
    """Why the labels of one image cannot be compared."""


@dataclass(frozen=True)
class Measured:
    """One image. difference: 0 where A and B agree. identical: whether the stored cells are equal. values: what
    `count` adds up; None if the labels could not be compared, with the reason in `problem`."""

    image_id: str
    difference: float
    identical: bool
    values: Any = None
    problem: str = ""


class TaskComparison:
    """Compares one task: `measure` of every image, in any thread, then `add` in order.

    The base class tells whether cells are equal. Others override `compare`, `count`, `numbers` and `blocks`.
    """

    difference_name: ClassVar[str] = "cells that differ (0 or 1)"
    digits: ClassVar[int] = 0  # of the difference, behind the point

    def __init__(self, pair: TaskPair) -> None:
        self.pair = pair
        self.images = self.identical = 0
        self.difference = Spread()
        self.problems: Counter[str] = Counter()
        self.problem_examples: dict[str, list[str]] = {}

    @property
    def columns(self) -> tuple[list[str], list[str]]:
        """The columns of A and of B that must be equal for cells to be identical, in the same order."""
        return list(self.pair.a.columns), list(self.pair.b.columns)

    @property
    def needs(self) -> list[str]:
        """Other columns of A that `compare` reads."""
        return []

    def measure(self, a: Row, b: Row) -> Measured:
        """Compare the rows of one image."""
        identical = self.are_identical(a, b)
        try:
            for row, columns, name in ((a, self.columns[0], "A"), (b, self.columns[1], "B")):
                if any(row.get(column) is None for column in columns):
                    raise Incomparable(f"{name} has no labels")
            difference, values = self.compare(a, b)
        except Incomparable as problem:
            return Measured(a["image_id"], float("nan"), identical, problem=str(problem))
        return Measured(a["image_id"], difference, identical, values)

    def are_identical(self, a: Row, b: Row) -> bool:
        """Whether the stored cells are equal, byte for byte."""
        return all(a.get(one) == b.get(other) for one, other in zip(*self.columns, strict=True))

    def compare(self, a: Row, b: Row) -> tuple[float, Any]:
        """The difference of the labels of two rows, and what `count` needs. Raises Incomparable."""
        return float(not self.are_identical(a, b)), ()

    def add(self, measured: Measured) -> None:
        """Count an image."""
        self.identical += measured.identical
        if measured.problem:
            self.problems[measured.problem] += 1
            named = self.problem_examples.setdefault(measured.problem, [])
            named += [measured.image_id][: EXAMPLES - len(named)]
            return
        self.images += 1
        self.difference.add(np.array([measured.difference]))
        self.count(measured.values)

    def count(self, values: Any) -> None:
        """Count what `compare` gave."""

    def result(self) -> Result:
        """What was found, as JSON values; docs/compare.md describes them."""
        not_compared = [
            {"reason": reason, "images": count, "examples": self.problem_examples[reason]}
            for reason, count in self.problems.most_common()
        ]
        return {
            "task": self.pair.a.kind, "column_in_a": self.pair.a.column, "column_in_b": self.pair.b.column,
            "images": self.images, "identical": self.identical, "not_compared": not_compared, **self.numbers(),
            "difference": {"name": self.difference_name, **self.difference.result()},
        }  # fmt: skip

    def numbers(self) -> Result:
        """The numbers of this kind of task."""
        return {}

    def summary(self) -> str:
        """How far A and B agree, in a few words; empty if no image could be compared."""
        total = self.images + sum(self.problems.values())
        return "identical bytes" if total and self.identical == total else self.headline()

    def headline(self) -> str:
        """The most important number in a few words; empty if there is none."""
        return ""

    def section(self) -> Section:
        """The part of the page."""
        total = self.images + sum(self.problems.values())
        blocks: list[Block] = [Facts([("byte for byte equal", f"{self.identical:,} of {total:,}"), *self.facts()])]
        blocks += [
            Note(f"{count:,} not compared: {reason}. {', '.join(self.problem_examples[reason])}", "aside")
            for reason, count in self.problems.most_common()
        ]
        if self.difference.count and self.difference.most > 0:
            caption = f"Images by {self.difference_name}"
            blocks.append(linear_histogram(caption, self.difference, max(self.digits, 1)))
        return Section(self.pair.name, f"task-{self.anchor}", [*blocks, *self.blocks()])

    @property
    def anchor(self) -> str:
        """The id of the part of the page, of letters, digits and dashes."""
        return "".join(char if char.isascii() and char.isalnum() else "-" for char in self.pair.name)

    def facts(self) -> Sequence[tuple[str, Cell]]:
        """Names and values that stand first."""
        return []

    def blocks(self) -> list[Block]:
        """What follows the facts."""
        return []


def steps_of(pixels: int) -> Iterator[slice]:
    """Slices that cover so many pixels, AT_A_TIME each: what is computed of a map stays small."""
    for start in range(0, pixels, AT_A_TIME):
        yield slice(start, start + AT_A_TIME)


def number(value: float | None, digits: int, unit: str = "") -> str | None:
    """A number for the page; None where there is none."""
    return None if value is None or value != value else f"{value:,.{digits}f}{unit}"
