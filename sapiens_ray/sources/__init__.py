"""Sources: encoded images from folders, lists, tars and Parquet files. One module per format."""

from __future__ import annotations

from sapiens_ray.registry import Registry
from sapiens_ray.sources.base import Encoded, Entry, EntrySource, Images, Look, Reading, ShardSource, Source

__all__ = ["SOURCES", "Encoded", "Entry", "EntrySource", "Images", "Look", "Reading", "ShardSource", "Source"]

SOURCES: Registry[Source] = Registry(
    "sapiens_ray.sources",
    Source,
    {
        "images": "sapiens_ray.sources.folders:SOURCE",
        "webdataset": "sapiens_ray.sources.webdataset:SOURCE",
        "parquet": "sapiens_ray.sources.parquet:SOURCE",
        "list": "sapiens_ray.sources.lists:SOURCE",
    },
)


def format_of(uri: str) -> str | None:
    """The format of a file, by its suffix in any letter case; None if no format has this suffix."""
    lower = uri.lower()
    return next((name for name, source in SOURCES.items() if lower.endswith(source.suffixes)), None)


def is_shard_format(name: str | None) -> bool:
    """Whether every file of a format is a shard."""
    return name is not None and isinstance(SOURCES[name], ShardSource)
