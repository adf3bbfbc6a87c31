"""The page on the job file: a table for every section of its JSON schema, with the words of `sapiens-ray schema`."""

from __future__ import annotations

import json
import re
from typing import Any

from sapiens_ray.job.config import Job

Schema = dict[str, Any]
HEAD = """# The job file

Every field, as `sapiens-ray schema` has it: `sapiens-ray schema > job.schema.json` writes it for an editor, which then
completes and checks what you type. Fields that are not marked as needed have a default. Unknown keys are refused, with
the nearest known one. Paths are relative to the YAML file; `${NAME}` and `${NAME:-default}` come from the environment.
"""
HIDDEN = {"source"}  # follows from the other keys


def job_file_page() -> str:
    """The page as Markdown."""
    return _Page(Job.model_json_schema()).text()


class _Page:
    """Sections are shown in the order in which the job file leads to them."""

    def __init__(self, schema: Schema) -> None:
        self._job = schema
        self._defs: dict[str, Schema] = schema["$defs"]
        self._headings: dict[str, str] = {}  # of sections that are shown or waiting, by name in the schema
        self._waiting: list[str] = []

    def text(self) -> str:
        kinds = self._job["properties"]["tasks"]["items"]["discriminator"]["mapping"]
        tasks = {task: self._defs[_name(reference)] for task, reference in kinds.items()}
        tasks = {"seg": tasks.pop("seg"), **tasks}  # the others may take its foreground
        lines = [HEAD, *self._table("The job", self._job)]
        lines += self._opened(short_forms=False)  # input and output
        first, *others = tasks.values()
        shared = [name for name in first["properties"] if all(name in one["properties"] for one in others)]
        shared = [name for name in shared if all(_same(first, one, name) for one in others)]
        lines += self._table("Every task", first, only=shared)
        for task, schema in tasks.items():
            own = [name for name in schema["properties"] if name not in shared and name != "task"]
            lines += self._table(f"task: {task}", schema, only=own)
        return "\n".join([*lines, *self._opened()]) + "\n"

    def _opened(self, short_forms: bool = True) -> list[str]:
        """The sections that tables named and that are not shown yet, and those that these name. short_forms: also those
        that a plain value may stand for, such as boxes."""
        lines: list[str] = []
        while ready := [name for name in self._waiting if short_forms or "anyOf" not in self._defs[name]]:
            name = ready[0]
            self._waiting.remove(name)
            schema = self._defs[name]
            short = [one for one in schema.get("anyOf", []) if one.get("type") != "object"]
            whole = next((one for one in schema.get("anyOf", []) if one.get("type") == "object"), schema)
            lines += self._table(self._headings[name], whole, short=" or ".join(map(self._type, short)))
        return lines

    def _table(self, heading: str, schema: Schema, only: list[str] | None = None, short: str = "") -> list[str]:
        lines = ["", f"## {heading} {{#{_anchor(heading)}}}", ""]
        if short:
            lines += [f"{short}, or a mapping:", ""]
        elif only is None and heading != "The job":
            lines += [schema.get("description", ""), ""]
        names = [name for name in schema["properties"] if name not in HIDDEN and (only is None or name in only)]
        if not names:
            return [*lines, "No options beside those of [every task](#every-task).", ""]
        lines += ["| field | value | default | |", "| --- | --- | --- | --- |"]
        for name in names:
            field = schema["properties"][name]
            default = "**needed**" if name in schema.get("required", ()) else _default(field)
            below = "" if heading in ("The job", "Every task") or heading.startswith("task: ") else f"{heading}."
            cells = [f"`{name}`", self._type(field, f"{below}{name}"), default, self._meaning(field)]
            lines.append(f"| {' | '.join(cells)} |")
        return [*lines, ""]

    def _meaning(self, field: Schema) -> str:
        section = self._defs[_name(field["$ref"])] if "$ref" in field else {}
        return _literal(field.get("description") or section.get("description", ""))

    def _type(self, field: Schema, where: str = "") -> str:
        """What a field takes, in words; sections as links. where: its place in the job file."""
        if "$ref" in field:
            name = _name(field["$ref"])
            if name not in self._headings:
                self._headings[name] = where
                self._waiting.append(name)
            return f"[`{self._headings[name]}`](#{_anchor(self._headings[name])})"
        if "anyOf" in field:
            return " or ".join(self._type(one, where) for one in field["anyOf"] if one.get("type") != "null")
        if "discriminator" in field.get("items", {}):
            return "list of [tasks](#every-task)"
        for key in ("enum", "const"):
            if key in field:
                values = field[key] if key == "enum" else [field[key]]
                return ", ".join(f"`{value}`" for value in values)
        words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
        if field.get("type") == "array":
            return "one or several" if where == "input.uri" else f"list of {self._type(field['items'])}s"
        return words.get(field.get("type", ""), "mapping") + _bounds(field)


def _same(first: Schema, second: Schema, name: str) -> bool:
    """Whether two tasks have the same field of this name."""
    return bool(first["properties"][name] == second["properties"][name])


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def _literal(text: str) -> str:
    """A text in one line of a table, in which only backticks mean something."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    escaped = (part if part.startswith("`") else re.sub(r"([*_\[\]\\])", r"\\\1", part) for part in parts)
    return "".join(escaped).replace("|", "\\|").replace("<", "&lt;")


def _bounds(field: Schema) -> str:
    least, above = field.get("minimum"), field.get("exclusiveMinimum")
    most = field.get("maximum")
    if least is not None and most is not None:
        return f", {least:,} to {most:,}"
    if least is not None:
        return f", {least:,} or more"
    if above is not None:
        return f" above {above:,}" + (f", up to {most:,}" if most is not None else "")
    return ""


def _default(field: Schema) -> str:
    """The default as YAML has it; a dash for none, or where the text says it."""
    value = field.get("default")
    if value in (None, "", [], {}):
        return "-"
    if isinstance(value, dict):  # of a section
        return f"`{value['source']}`" if "source" in value else "those of its fields"
    return f"`{json.dumps(value)}`".replace('"', "")
