"""Settings of torch that are environment variables, for the time of a block."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables of this process for the time of the block: torch reads them whenever it compiles."""
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
    """Let torch look for downloaded weights below a folder; gives where exactly."""
    before = torch.hub.get_dir()
    with environment({"TORCH_HOME": str(folder)}):
        explicit = torch.hub.get_dir() == before  # by torch.hub.set_dir, which overrules the variable
        if explicit:
            torch.hub.set_dir(folder / "hub")
        try:
            yield Path(torch.hub.get_dir()) / "checkpoints"
        finally:
            if explicit:
                torch.hub.set_dir(before)
