"""Named entries of one kind: those of this package, and those that installed packages add.

A package adds an entry through an entry point, for example in its pyproject.toml:

    [project.entry-points."sapiens_ray.tasks"]
    colour = "my_package.colour:TASK"

Names are known without importing anything; an entry is imported when it is first used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Generic, TypeVar, cast

from sapiens_ray.errors import ConfigError

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry], Generic[Entry]):
    """Name to entry, in the order of declaration; entries of other packages follow, sorted by name.

    Raises ConfigError for an entry of another package if its name is taken or it cannot be imported.
    """

    def __init__(self, group: str, kind: type[Entry], built_in: Mapping[str, str]) -> None:
        """group: the group of entry points. built_in: name to `module:attribute`."""
        self.group = group
        self._kind = kind
        self._built_in = built_in
        self._loaded: dict[str, Entry] = {}

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        points = {name: EntryPoint(name, place, self.group) for name, place in self._built_in.items()}
        for point in sorted(_installed(tuple(sys.path)).select(group=self.group), key=lambda point: point.name):
            if point.name in points:
                owner = _package(points[point.name])
                raise ConfigError(f"{_package(point)} adds {point.name!r} to {self.group}, which {owner} has already")
            points[point.name] = point
        return points

    def __getitem__(self, name: str) -> Entry:
        if name not in self._loaded:
            point = self._points[name]
            try:
                entry = point.load()
            except Exception as error:
                raise ConfigError(
                    f"{_package(point)} adds {name!r} to {self.group}, but {point.value} cannot be imported: "
                    f"{type(error).__name__}: {error}; fix or uninstall it"
                ) from error
            if not isinstance(entry, self._kind):
                raise ConfigError(f"{_package(point)}: {point.value} in {self.group} is not a {self._kind.__name__}")
            own_name = getattr(entry, "name", name)
            if own_name != name:
                raise ConfigError(f"{_package(point)}: {point.value} in {self.group} is {own_name!r}, not {name!r}")
            self._loaded[name] = entry
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._points

    def __iter__(self) -> Iterator[str]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> EntryPoints:
    """The entry points of all packages, which takes a look at each of them. path: `sys.path`."""
    return cast(EntryPoints, entry_points())  # before Python 3.12 typed otherwise


def _package(point: EntryPoint) -> str:
    return f"package {point.dist.name}" if point.dist else "sapiens_ray"
