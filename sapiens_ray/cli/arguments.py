"""What several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sapiens_ray.storage import Folder

Subparsers = argparse._SubParsersAction  # argparse has no public name for it


def storage_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `folder_of` reads."""
    parser.add_argument(
        "--storage-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="storage_options",
        help="passed to fsspec for the output, such as endpoint_url=http://minio:9000",
    )


def folder_of(uri: str, arguments: argparse.Namespace) -> Folder:
    """A folder that was named on the command line."""
    from sapiens_ray.storage import Folder

    options = dict(option.partition("=")[::2] for option in arguments.storage_options)
    return Folder(uri.rstrip("/"), options)
