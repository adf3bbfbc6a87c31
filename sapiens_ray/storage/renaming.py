"""Giving a published file another name."""

from __future__ import annotations

import os

from sapiens_ray.storage.files import Folder, filesystem, local_path
from sapiens_ray.storage.retries import retrying


def rename(folder: Folder, name: str, new: str) -> None:
    """Give a file of a folder another name, replacing a file of that name. On an object store it is copied by the
    store, and then deleted."""
    if not folder.remote:
        os.replace(local_path(folder.join(name)), local_path(folder.join(new)))
        return
    fs, path = filesystem(folder.join(name), folder.options)
    retrying(fs.cp_file, path, filesystem(folder.join(new), folder.options)[1])
    folder.delete(name)
