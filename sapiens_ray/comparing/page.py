"""The comparison as a page: its parts in the order of reading."""

from __future__ import annotations

from collections.abc import Sequence

from sapiens_ray.comparing.join import Counts, FailedImage
from sapiens_ray.comparing.pairing import Paired
from sapiens_ray.comparing.settings import Difference
from sapiens_ray.comparing.shown import Pairs, Shown, build_gallery, sheets_of
from sapiens_ray.comparing.tasks import TaskComparison
from sapiens_ray.output.summary import counted
from sapiens_ray.pages import Block, Facts, Note, Page, Section, Table, Text
from sapiens_ray.pages.blocks import Cell
from sapiens_ray.reporting.about import About
from sapiens_ray.version import __version__

SHOWN_ERRORS = 20


def build_page(
    a: About, b: About, settings: Sequence[Difference], counts: Counts, failed: Sequence[FailedImage], paired: Paired,
    tasks: Sequence[TaskComparison], pairs: Pairs, shown: Shown | None, chosen: str,
) -> Page:  # fmt: skip
    """The page. chosen: which rows of A are compared, in words; empty for all."""
    equal = sum(task.identical == len(pairs) for task in tasks)
    facts = [
        (f"{counts.compared:,}", "images compared"),
        (f"{equal:,} of {len(tasks):,}", "tasks are byte for byte equal"),
    ]
    if counts.errors:
        facts.append((f"{counts.errors:,}", "images with an error"))
    sheets = sheets_of(shown, pairs, tasks) if shown else []
    sections = [
        Section("What is compared", "about", _about(a, b, settings, counts, paired, tasks), wide=True),
        *([Section("Images that differ most", "sheets", sheets, wide=True)] if sheets else []),
        *(task.section() for task in tasks),
        *([Section("Errors", "errors", [_errors(counts, failed)], wide=True)] if failed else []),
    ]
    return Page(
        title="Two outputs compared",
        lead=f"A is {a.output}, B is {b.output}.{f' Only images with {chosen} in A.' if chosen else ''}",
        facts=facts,
        sections=sections,
        gallery=build_gallery(shown, pairs, tasks) if shown else None,
        footer=f"Made by sapiens-ray {__version__}. This file needs and loads nothing else.",
    )


def _about(
    a: About, b: About, settings: Sequence[Difference], counts: Counts, paired: Paired, tasks: Sequence[TaskComparison]
) -> list[Block]:
    facts: list[tuple[str, Cell]] = [("A", Text(a.output, code=True)), ("B", Text(b.output, code=True))]
    facts.append(("images in both", counts.in_both))
    for where, only, examples, repeated in (
        ("A", counts.only_in_a, counts.only_in_a_examples, counts.repeated_in_a),
        ("B", counts.only_in_b, counts.only_in_b_examples, counts.repeated_in_b),
    ):
        if only:
            facts.append(
                (f"only in {where}", f"{only:,}: {', '.join(examples)}{', …' if only > len(examples) else ''}")
            )
        if repeated:
            facts.append(
                (f"repeated in {where}", f"{counted(repeated, 'row')} with the id of an earlier row, left out")
            )
    if counts.compared < counts.in_both - counts.errors:
        facts.append(("sample", f"{counts.compared:,} of {counts.in_both - counts.errors:,}, drawn at random"))
    for where, columns in (("A", paired.only_in_a), ("B", paired.only_in_b)):
        if columns:
            facts.append((f"tasks not compared, of {where}", ", ".join(columns)))
    agreement: list[list[Cell]] = [
        [task.pair.name, task.pair.a.kind, f"{task.identical:,} of {counts.compared:,}", task.summary()]
        for task in tasks
    ]
    blocks: list[Block] = [
        Facts(facts),
        Table("Tasks", ["task", "kind", "byte for byte equal", "agreement"], agreement),
    ]
    if settings:
        differing: list[list[Cell]] = [
            [one.task or "job", one.setting, _value(one.setting, one.a), _value(one.setting, one.b)] for one in settings
        ]
        return [Table("Settings that differ", ["of", "setting", "A", "B"], differing), *blocks]
    if a.record and b.record:
        return [Note("Both were made with the same checkpoints, settings and versions."), *blocks]
    missing = " and ".join(name for name, one in (("A", a), ("B", b)) if not one.record)
    return [Note(f"There is no job.yaml in {missing} that says with what it was made.", "aside"), *blocks]


def _value(setting: str, value: str | None) -> Cell:
    """A value, of checksums the beginning and of paths the end, so that A and B fit beside each other."""
    if value is None:
        return None
    short = value[:12] if setting.startswith("sha256") else value
    if setting.startswith("checkpoint"):
        short = "/".join(value.rstrip("/").split("/")[-2:])
    return Text(short, value if short != value else "", code=True)


def _errors(counts: Counts, failed: Sequence[FailedImage]) -> Table:
    rows: list[list[Cell]] = [[Text(one.image_id, code=True), one.a, one.b] for one in failed[:SHOWN_ERRORS]]
    caption = (
        f"Error rows, which are not compared: {counts.error_in_a:,} in A only, {counts.error_in_b:,} in B only, "
        f"{counts.error_in_both:,} in both"
    )
    if counts.errors > len(rows):
        caption += f"; the first {len(rows)}"
    return Table(caption, ["image", "error in A", "error in B"], rows)
