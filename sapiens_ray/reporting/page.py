"""The report as a page: its parts in the order of reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sapiens_ray.output.summary import counted, duration, three_digits
from sapiens_ray.pages import Bar, Bars, Block, Facts, Histogram, Note, Page, Section, Table, Text
from sapiens_ray.pages.blocks import Cell
from sapiens_ray.pages.render import percent
from sapiens_ray.reporting.about import STEPS, About, Throughput
from sapiens_ray.reporting.drawing import Thumbnail
from sapiens_ray.reporting.pictures import sheets_of
from sapiens_ray.reporting.rows import Shown
from sapiens_ray.reporting.shown import build_gallery
from sapiens_ray.reporting.statistics import Statistics
from sapiens_ray.reporting.words import between, log_edges, spread_row
from sapiens_ray.version import __version__

EXAMPLES = 3  # of error rows, of each kind


def build_page(
    about: About, state: Mapping[str, Any], statistics: Statistics, shown: Shown | None,
    pictures: Mapping[int, Thumbnail], written: Throughput, chosen: str = "",
) -> Page:  # fmt: skip
    """The page. state: of `planning.status`. pictures: thumbnails by the place of their row. chosen: which rows are
    counted, in words; empty for all."""
    failed = sum(statistics.errors.values())
    facts = [
        (f"{statistics.images:,}", "images"),
        (f"{statistics.images - failed:,}", "labelled"),
        (f"{failed:,}", "errors"),
    ]
    rate = about.summary.get("images_per_s")
    if rate:
        facts.append((three_digits(rate), "images per second"))
    names = {task.column: task.confidence_name for task in statistics.tasks}
    sheets = sheets_of(shown, pictures, names) if shown else []
    sections = [
        Section("What was labelled", "about", _about(about, state), wide=True),
        *([Section("Contact sheets", "sheets", sheets, wide=True)] if sheets else []),
        *(part for task in statistics.tasks for part in task.sections()),
        *([Section("Errors", "errors", _errors(statistics, shown), wide=True)] if failed and shown else []),
        Section("Speed", "speed", _speed(about, written)),
        Section("Sizes of photos", "sizes", _sizes(statistics)),
    ]
    return Page(
        title=f"Labels of {about.name}" if about.name else "Labels",
        lead=_lead(about, state, chosen),
        facts=facts,
        sections=sections,
        gallery=build_gallery(statistics, shown, pictures) if shown else None,
        footer=f"Made by sapiens-ray {__version__} from {about.output}. This file needs nothing else and loads nothing.",
        warnings=_warnings(state),
    )


def _lead(about: About, state: Mapping[str, Any], chosen: str) -> str:
    tasks = ", ".join(dict.fromkeys(str(model["column"]) for model in about.models))
    parts = [f"{about.output}{f': {tasks}' if tasks else ''}."]
    if chosen:
        parts.append(f"Only images with {chosen}.")
    when = about.summary.get("written_at")
    if state["state"] and when:
        parts.append(f"The last run: {state['state']}, {when}.")
    return " ".join(parts)


def _warnings(state: Mapping[str, Any]) -> list[str]:
    if state["state"] == "running":
        return ["A run is writing to this output: these are the labels so far."]
    if state["complete"]:
        return []
    expected = state["expected"]
    if state["subset"]:
        return [f"A trial run: {state['subset']}."]
    return [
        f"Not complete: {state['images']:,} of {'an unknown number of' if expected is None else f'{expected:,}'} images."
    ]


def _about(about: About, state: Mapping[str, Any]) -> list[Block]:
    given = about.record.get("job", {}).get("input", {}).get("uri", [])
    facts: list[tuple[str, Cell]] = [("output", Text(about.output, code=True))]
    facts += [("input" if not number else "", Text(str(uri), code=True)) for number, uri in enumerate(given[:10])]
    if len(given) > 10:
        facts.append(("", f"and {len(given) - 10} more"))
    facts.append(("shards", f"{state['shards_complete']:,} of {state['shards']:,} complete"))
    if about.record.get("fingerprint"):
        facts.append(
            ("fingerprint", Text(about.record["fingerprint"], "of the settings that decide the labels", code=True))
        )
    versions = about.record.get("versions") or {}
    if versions:
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    rows = []
    for model in about.models:
        settings = ", ".join(f"{key} {value}" for key, value in model["settings"].items())
        rows.append([model["column"], model["task"], model["mode"], _checkpoint(model), _hash(model), settings])
    rows += [["", "detector", "", _checkpoint(one), _hash(one), ""] for one in about.detectors]
    if not rows:
        return [Facts(facts), Note("There is no job.yaml that says with what these images were labelled.", "aside")]
    columns = ["column", "task", "mode", "checkpoint", "SHA-256", "settings"]
    return [Facts(facts), Table("Models", columns, rows)]


def _checkpoint(model: Mapping[str, Any]) -> Text:
    return Text(str(model["checkpoint"]).rstrip("/").rpartition("/")[2], str(model["checkpoint"]), code=True)


def _hash(model: Mapping[str, Any]) -> Text:
    digest = str(model["sha256"])
    return Text(digest[:12] or "unknown", digest, code=True)


def _errors(statistics: Statistics, shown: Shown | None) -> list[Block]:
    most = max(statistics.errors.values())
    bars = [
        Bar(kind, count / most, f"{count:,} ({percent(count / statistics.images)})")
        for kind, count in statistics.errors.most_common()
    ]
    blocks: list[Block] = [Bars("Error rows by kind", ("kind", "rows"), bars)]
    if shown is None:
        return blocks
    rows: list[list[Cell]] = []
    of_kind: dict[str, int] = {}
    table = shown.rows.take(shown.errors).select(["image_id", "error_kind", "error"]).to_pylist()
    for row in sorted(table, key=lambda row: (-statistics.errors[row["error_kind"]], row["error_kind"])):
        kind = row["error_kind"]
        of_kind[kind] = of_kind.get(kind, 0) + 1
        if of_kind[kind] <= EXAMPLES:
            rows.append([kind, Text(row["image_id"], code=True), row["error"] or ""])
    return [*blocks, Table("Examples", ["kind", "image", "message"], rows)]


def _speed(about: About, written: Throughput) -> list[Block]:
    run = about.summary
    blocks: list[Block] = []
    facts: list[tuple[str, Cell]] = []
    if run.get("elapsed_s"):
        labelled = int(run.get("images") or 0) - int(run.get("already_done") or 0)
        facts.append(("last run", f"{counted(labelled, 'image')} in {duration(run['elapsed_s'])}"))
    if run.get("images_per_s"):
        facts.append(("rate", f"{three_digits(run['images_per_s'])} images per second, with the start"))
    if run.get("repeated"):
        facts.append(("repeated", f"{run['repeated']} units or shards, since their worker died"))
    device = run.get("device") or {}
    if device:
        busy, waiting = float(device["busy"]), float(device["waiting_for_input"])
        facts.append(("device", f"{percent(busy)} busy, {percent(waiting)} waiting for input, {percent(max(0.0, 1 - busy - waiting))} waiting for results to be reduced"))  # fmt: skip
    if facts:
        blocks.append(Facts(facts))
    stages = {name: float(seconds) for name, seconds in (run.get("stages") or {}).items()}
    if stages:
        most = max(stages.values()) or 1
        bars = [Bar(name, seconds / most, f"{1000 * seconds:.1f} ms") for name, seconds in stages.items()]
        blocks.append(Bars("Time by stage, summed over processes", ("stage", "per image"), bars))
    if device.get("models"):
        rows = [
            [name, one.get("inputs"), percent(one["batch_fill"]) if one.get("batch_fill") is not None else None, one.get("inputs_per_s")]
            for name, one in device["models"].items()
        ]  # fmt: skip
        blocks.append(
            Table(
                "What the device did", ["model", "inputs", "batches full", "inputs per second"], rows, right=(1, 2, 3)
            )
        )
    if not run:
        blocks.append(Note("There is no summary.json: rate, stages and device are unknown.", "aside"))
    return [*blocks, _over_time(written)]


def _over_time(written: Throughput) -> Block:
    if written.start is None or written.end is None:
        return Note(f"Throughput over time: {written.note}", "aside")
    total = sum(written.images)
    step = (written.end - written.start) / STEPS
    labels = [
        f"{written.start + number * step:%Y-%m-%d %H:%M:%S}, {counted(images, 'image')}" for number, images in enumerate(written.images)
    ]  # fmt: skip
    ends = (f"{written.start:%Y-%m-%d %H:%M:%S}", f"{written.end:%Y-%m-%d %H:%M:%S} UTC")
    shares = [images / total for images in written.images]
    return Histogram(
        "Images over time", shares, labels, ends, f"A bar is {duration(step.total_seconds())}. {written.note}"
    )


def _sizes(statistics: Statistics) -> list[Block]:
    if not statistics.widths.count:
        return [Note("No photo was decoded.")]
    sizes = statistics.megapixels
    edges = log_edges(max(sizes.least, 1e-6), sizes.most, 24)
    aspects = log_edges(max(statistics.aspects.least, 1e-3), statistics.aspects.most, 24)
    columns = ["", "least", "5 %", "median", "95 %", "most", "unknown"]
    rows = [
        spread_row("width", statistics.widths, 0),
        spread_row("height", statistics.heights, 0),
        spread_row("megapixels", sizes, 2),
    ]
    return [
        Histogram("Megapixels", sizes.shares(edges), between(edges, 2), (f"{edges[0]:.3g}", f"{edges[-1]:.3g}"), f"Median {sizes.result()['median']:.3g}."),
        Histogram("Width by height", statistics.aspects.shares(aspects), between(aspects, 2), (f"{aspects[0]:.2f}", f"{aspects[-1]:.2f}"), f"Median {statistics.aspects.result()['median']:.2f}."),
        Table("Sizes in pixels", columns, rows, right=range(1, 7)),
    ]  # fmt: skip
