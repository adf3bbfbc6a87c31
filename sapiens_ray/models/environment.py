"""Settings of torch that are environment variables, set for the duration of a block."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables of this process inside the block: torch reads them whenever it compiles."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def hub_folder(folder: Path) -> Iterator[Path]:
    """Make torch look for downloaded weights below a folder. Yields the exact folder."""
    before = torch.hub.get_dir()
    with environment({"TORCH_HOME": str(folder)}):
        explicit = torch.hub.get_dir() == before  # set by torch.hub.set_dir, which overrides the variable
        if explicit:
            torch.hub.set_dir(folder / "hub")
        try:
            yield Path(torch.hub.get_dir()) / "checkpoints"
        finally:
            if explicit:
                torch.hub.set_dir(before)
