"""What differs in how two outputs were made, from the `job.yaml` of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sapiens_ray.comparing.pairing import TaskPair
from sapiens_ray.reporting.about import About

OF_MODEL = ("mode", "checkpoint", "sha256")
OF_INPUT = ("max_pixels", "include", "image_column", "id_column")


@dataclass(frozen=True)
class Difference:
    """One setting. task: the columns; empty for the job. a, b: the values in words; None where it is not set."""

    task: str
    setting: str
    a: str | None
    b: str | None


def settings_that_differ(a: About, b: About, pairs: list[TaskPair]) -> list[Difference]:
    """The settings of the compared tasks, detectors, input and versions with different values in A and B."""
    found: list[Difference] = []
    models_a, models_b = ({str(one["column"]): one for one in about.models} for about in (a, b))
    for pair in pairs:
        first, second = models_a.get(pair.a.column), models_b.get(pair.b.column)
        if first and second:
            found += _differing(pair.name, _of_model(first), _of_model(second))
    found += _differing("detector", _detectors(a), _detectors(b))
    found += _differing("", _of_input(a), _of_input(b))
    versions_a, versions_b = (about.record.get("versions") or {} for about in (a, b))
    found += _differing("versions", versions_a, versions_b)
    return found


def _of_model(model: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: model[name] or None for name in OF_MODEL}, **model["settings"]}


def _detectors(about: About) -> dict[str, Any]:
    """The files of the person detectors, numbered if there are several."""
    return {
        f"{name} {number}".removesuffix(" 1"): one[name] or None
        for number, one in enumerate(about.detectors, 1)
        for name in ("checkpoint", "sha256")
    }


def _of_input(about: About) -> dict[str, Any]:
    given = about.record.get("job", {}).get("input", {})
    return {f"input.{name}": given.get(name) for name in OF_INPUT}


def _differing(task: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(task, name, _words(a.get(name)), _words(b.get(name)))
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]


def _words(value: object) -> str | None:
    return None if value is None else str(value)
