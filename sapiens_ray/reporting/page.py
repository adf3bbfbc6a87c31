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
from sapiens_ray.reporting.words import log_histogram, spread_table
from sapiens_ray.version import __version__

EXAMPLES = 3  # of error rows, of each kind


def build_page(
    about: About, state: Mapping[str, Any], statistics: Statistics, shown: Shown | None,
    pictures: Mapping[int, Thumbnail], written: Throughput, chosen: str = "",
) -> Page:  # fmt: skip
    """The page. state: of `planning.status`. pictures: thumbnails by the place of their row. chosen: which rows are
    counted, in words; empty for all."""
    failed = sum(statistics.errors.values())
    counts = {"images": statistics.images, "labelled": statistics.images - failed, "errors": failed}
    facts = [(f"{count:,}", name) for name, count in counts.items()]
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
        footer=f"Made by sapiens-ray {__version__} from {about.output}. This file loads nothing from elsewhere.",
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
    if state["subset"]:
        return [f"A trial run: {state['subset']}."]
    expected = "an unknown number of" if state["expected"] is None else f"{state['expected']:,}"
    return [f"Not complete: {state['images']:,} of {expected} images."]


def _about(about: About, state: Mapping[str, Any]) -> list[Block]:
    given = about.record.get("job", {}).get("input", {}).get("uri", [])
    facts: list[tuple[str, Cell]] = [("output", Text(about.output, code=True))]
    facts += [("input" if not number else "", Text(str(uri), code=True)) for number, uri in enumerate(given[:10])]
    if len(given) > 10:
        facts.append(("", f"and {len(given) - 10} more"))
    facts.append(("shards", f"{state['shards_complete']:,} of {state['shards']:,} complete"))
    if about.record.get("fingerprint"):
        what = "of the settings that decide the labels"
        facts.append(("fingerprint", Text(about.record["fingerprint"], what, code=True)))
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
    every = [*about.models, *about.detectors]
    files = [[Text(one["checkpoint"], code=True), Text(one["sha256"], code=True)] for one in every]
    whole = Table("Checkpoints", ["path", "SHA-256"], files, fold="Whole paths and checksums")
    return [Facts(facts), Table("Models", columns, rows), whole]


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
        facts.append(("device", _device(float(device["busy"]), float(device["waiting_for_input"]))))
    if facts:
        blocks.append(Facts(facts))
    stages = {name: float(seconds) for name, seconds in (run.get("stages") or {}).items()}
    if stages:
        most = max(stages.values()) or 1
        bars = [Bar(name, seconds / most, f"{1000 * seconds:.1f} ms") for name, seconds in stages.items()]
        blocks.append(Bars("Time by stage, summed over processes", ("stage", "per image"), bars))
    if device.get("models"):
        blocks.append(_of_models(device["models"]))
    if not run:
        blocks.append(Note("There is no summary.json: rate, stages and device are unknown.", "aside"))
    return [*blocks, _over_time(written)]


def _device(busy: float, waiting: float) -> str:
    reducing = max(0.0, 1 - busy - waiting)
    return (
        f"{percent(busy)} busy, {percent(waiting)} waiting for input, {percent(reducing)} waiting for results to be "
        "reduced"
    )


def _of_models(models: Mapping[str, Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = []
    for name, one in models.items():
        fill = None if one.get("batch_fill") is None else percent(one["batch_fill"])
        rows.append([name, one.get("inputs"), fill, one.get("inputs_per_s")])
    columns = ["model", "inputs", "fill of batches", "inputs per second"]
    return Table("What the device did", columns, rows, right=(1, 2, 3))


def _over_time(written: Throughput) -> Block:
    if written.start is None or written.end is None:
        return Note(f"Throughput over time: {written.note}", "aside")
    total = sum(written.images)
    step = (written.end - written.start) / STEPS
    labels = [
        f"{written.start + number * step:%Y-%m-%d %H:%M:%S}, {counted(images, 'image')}"
        for number, images in enumerate(written.images)
    ]
    ends = (f"{written.start:%Y-%m-%d %H:%M:%S}", f"{written.end:%Y-%m-%d %H:%M:%S} UTC")
    shares = [images / total for images in written.images]
    summary = f"A bar is {duration(step.total_seconds())}. {written.note}"
    return Histogram("Images over time", shares, labels, ends, summary)


def _sizes(statistics: Statistics) -> list[Block]:
    if not statistics.widths.count:
        return [Note("No photo was decoded.")]
    sizes = statistics.megapixels
    aspects = statistics.aspects
    spreads = {"width": (statistics.widths, 0), "height": (statistics.heights, 0), "megapixels": (sizes, 2)}
    return [
        log_histogram("Megapixels", sizes, 2, summary=f"Median {sizes.result()['median']:.3g}."),
        log_histogram("Width by height", aspects, 2, summary=f"Median {aspects.result()['median']:.2f}."),
        spread_table("Sizes in pixels", spreads, "unknown"),
    ]
