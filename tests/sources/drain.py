"""Reads a source to its end."""

from __future__ import annotations

from sapiens_ray.sources import Encoded
from sapiens_ray.sources.base import Images


def drain(source: Images) -> tuple[list[Encoded], int]:
    """All images of a source, and the count it returns."""
    found: list[Encoded] = []
    while True:
        try:
            found.append(next(source))
        except StopIteration as end:
            return found, end.value
