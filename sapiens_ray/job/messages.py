"""Messages about wrong job files: one line for an error of YAML, and one per pydantic error."""

from __future__ import annotations

import difflib
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from sapiens_ray.tasks import TASKS


def explain(item: ErrorDetails, job: type[BaseModel]) -> str:
    """One line for one pydantic error: the field, what is wrong, and the fix. job: the model of the whole file."""
    written = (part for number, part in enumerate(item["loc"]) if not (number == 2 and item["loc"][0] == "tasks"))
    loc = tuple(part for part in written if not _is_tag(part))
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if item["type"] == "extra_forbidden":
        known = _known_keys(item["loc"][:-1], job)
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if item["type"] == "missing":
        choices = _choices(item["loc"], job)
        return f"{where}: is missing" + (f"; one of {', '.join(map(str, choices))}" if choices else "")
    if item["type"] == "union_tag_not_found":
        return f"{where}.task: is missing"
    if item["type"] == "union_tag_invalid":
        tag = item["ctx"]["tag"]
        close = difflib.get_close_matches(tag, list(TASKS), n=1)
        return f"{where}.task: {tag!r} is not one of {', '.join(TASKS)}" + (
            f"; did you mean {close[0]!r}?" if close else ""
        )
    plain = {
        "model_type": "should be a mapping of `key: value` lines",
        "model_attributes_type": "should be a mapping of `key: value` lines",
        "dict_type": "should be a mapping of `key: value` lines",
        "list_type": "should be a list, each entry on a line that starts with `- `",
        "string_pattern_mismatch": f"does not have the right form, {item.get('ctx', {}).get('pattern')}",
    }
    if item["type"] == "string_too_short":
        return f"{where}: is empty"
    if item["type"] == "too_short":
        return f"{where}: the list is empty"
    if item["type"] in ("string_type", "list_type") and item.get("input") is None:
        return f"{where}: has no value"
    message = plain.get(item["type"]) or item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = message[0].lower() + message[1:]
    if message.startswith("["):  # a validator of the whole list named the entry
        return f"{where}{message}"
    got = item.get("input")
    secret = "storage_options" in item["loc"]
    received = f" (got {got!r})" if (not secret and isinstance(got, str | int | float | bool)) or got is None else ""
    return f"{where}: {message}{received}" if where else message


def explain_yaml(error: yaml.YAMLError, text: bytes) -> str:
    """What is wrong with a file that is not YAML, and where, in one line. text: what could not be read."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"not valid YAML: {' '.join(str(error).split())}"
    mark = error.problem_mark
    message = f"not valid YAML: line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}"
    lines = text.decode("utf-8", errors="replace").splitlines()
    if mark.line < len(lines) and "${" in lines[mark.line]:
        message += '; between { } or [ ], write "${NAME}" in quotes'
    elif "block end" in message or "start any token" in message:
        message += "; indent with spaces, and all lines of a section by the same number"
    return message


def _is_tag(part: int | str) -> bool:
    """Whether a part of a place is the tag of a choice, which the job file does not have."""
    return isinstance(part, str) and part.startswith("(")


def _known_keys(loc: tuple[int | str, ...], job: type[BaseModel]) -> list[str]:
    """The keys of the section at a place in the job."""
    hidden = {"source"}  # derived from other keys
    return [key for key in _section_at(loc, job).model_fields if key not in hidden]


def _choices(loc: tuple[int | str, ...], job: type[BaseModel]) -> tuple[object, ...]:
    """The values from which a field takes one; empty if there is no such list."""
    annotation = _section_at(loc[:-1], job).model_fields[str(loc[-1])].annotation
    return next((get_args(kind) for kind in _kinds(annotation) if get_origin(kind) is Literal), ())


def _kinds(annotation: Any) -> list[Any]:
    """The types in an annotation: those of a union, without what else is said of them."""
    if get_origin(annotation) in (Annotated, Union, UnionType):
        parts = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
        return [kind for part in parts for kind in _kinds(part)]
    return [annotation]


def _section_at(loc: tuple[int | str, ...], job: type[BaseModel]) -> type[BaseModel]:
    """The section at a place in the job."""
    section = job
    for part in loc:
        if part in TASKS and section is job:
            section = TASKS[str(part)].options
        elif isinstance(part, str) and part != "tasks" and not _is_tag(part):
            kinds = [kind for kind in _kinds(section.model_fields[part].annotation) if isinstance(kind, type)]
            section = next(kind for kind in kinds if issubclass(kind, BaseModel))
    return section
