"""Where a command writes its page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sapiens_ray.cli.arguments import folder_of

if TYPE_CHECKING:
    from sapiens_ray.storage import Folder


def page_target(arguments: argparse.Namespace, outputs: Sequence[str]) -> tuple[Folder, str]:
    """The folder of the page that `--to` names, and its name there. outputs: which the command reads.

    Raises ConfigError if it is a folder, or a part of an output."""
    from pathlib import Path

    from sapiens_ray.errors import ConfigError
    from sapiens_ray.output.layout import PARTS
    from sapiens_ray.storage import is_remote
    from sapiens_ray.storage.uris import absolute

    uri = str(arguments.to)
    folder, _, name = uri.rpartition("/")
    if not name or (not is_remote(uri) and Path(uri).is_dir()):
        raise ConfigError(f"--to {uri}: is a folder; name a file, such as {uri.rstrip('/')}/{arguments.page}")
    place = absolute(uri)
    labels = [absolute(output) for output in outputs]
    if place.startswith(tuple(f"{one}/{part}" for one in labels for part in PARTS)):
        raise ConfigError(f"--to {uri}: lies among the labels themselves; name another place")
    return folder_of(folder or ("/" if uri.startswith("/") else "."), arguments), name
