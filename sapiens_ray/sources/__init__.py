"""Sources: encoded images from folders, lists, tars, Parquet files and videos. One module per format."""

from __future__ import annotations

from functools import cache

from sapiens_ray.errors import ConfigError
from sapiens_ray.registry import Registry
from sapiens_ray.sources.base import Encoded, Entry, EntrySource, Images, Look, Reading, ShardSource, Source

__all__ = ["SOURCES", "VIDEO", "Encoded", "Entry", "EntrySource", "Images", "Look", "Reading", "ShardSource", "Source"]

VIDEO = "video"  # the format whose files are read only where they are asked for: by name, or by `input.format`

SOURCES: Registry[Source] = Registry(
    "sapiens_ray.sources",
    Source,
    {
        "images": "sapiens_ray.sources.folders:SOURCE",
        "webdataset": "sapiens_ray.sources.webdataset:SOURCE",
        "parquet": "sapiens_ray.sources.parquet:SOURCE",
        "list": "sapiens_ray.sources.lists:SOURCE",
        VIDEO: "sapiens_ray.sources.video:SOURCE",
    },
)


def source_of(name: str) -> Source:
    """The source of a format. Raises ConfigError for a format that is not installed here."""
    if name not in SOURCES:
        raise ConfigError(f"input.format: {name!r} is not installed here; the formats are {', '.join(SOURCES)}")
    return SOURCES[name]


@cache
def _formats_by_suffix() -> dict[str, str]:
    # Reversed, so that a format of this package keeps a suffix that another package claims as well.
    return {suffix: name for name, source in reversed(list(SOURCES.items())) for suffix in source.suffixes}


def format_of(uri: str) -> str | None:
    """The format of a file, by its suffix in any letter case; None if no format has it."""
    formats = _formats_by_suffix()  # called for every file of a listing
    lower = uri.lower()
    if not lower.endswith(tuple(formats)):
        return None
    return next(name for suffix, name in formats.items() if lower.endswith(suffix))


@cache
def is_shard_format(name: str | None) -> bool:
    """Whether every file of a format is a shard. Raises ConfigError for a format that is not installed here."""
    return name is not None and isinstance(source_of(name), ShardSource)
