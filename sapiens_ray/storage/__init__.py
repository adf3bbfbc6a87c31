"""Storage access: local paths and any fsspec URL through the same calls, with retries and atomic publishing."""

from sapiens_ray.storage.files import (
    MAX_FILE,
    TEMPORARY,
    Folder,
    StorageOptions,
    filesystem,
    in_working_dir,
    is_gone,
    is_reachable,
    is_remote,
    local_path,
    open_read,
    read_bytes,
    request_threads,
    stamp,
    translate_errors,
    walk,
)

__all__ = [
    "MAX_FILE",
    "TEMPORARY",
    "Folder",
    "StorageOptions",
    "filesystem",
    "in_working_dir",
    "is_gone",
    "is_reachable",
    "is_remote",
    "local_path",
    "open_read",
    "read_bytes",
    "request_threads",
    "stamp",
    "translate_errors",
    "walk",
]
