"""Files that commands write where `--to` says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sapiens_ray.cli.arguments import folder_of

if TYPE_CHECKING:
    from sapiens_ray.storage import Folder


def file_target(
    arguments: argparse.Namespace, outputs: Sequence[Folder], example: str, kept: Sequence[str] = ()
) -> tuple[Folder, str]:
    """The folder of the file that `--to` names, and its name there.

    outputs: which the command reads. example: a name for such a file, for the message. kept: other files that it reads.
    Raises ConfigError if it is a folder, a part of an output, what its job took as input, or one of `kept`; OutputError
    if the storage of an output does not answer.
    """
    from pathlib import Path

    from sapiens_ray.errors import ConfigError, OutputError
    from sapiens_ray.output.layout import is_in_output
    from sapiens_ray.output.record import input_uris
    from sapiens_ray.storage import is_remote, local_path, translate_errors
    from sapiens_ray.storage.uris import absolute

    uri = arguments.to if is_remote(arguments.to) else local_path(arguments.to)
    folder, slash, name = uri.rpartition("/")
    if not name or (not is_remote(uri) and Path(uri).is_dir()):
        raise ConfigError(f"--to {uri}: is a folder; name a file, such as {uri.rstrip('/')}/{example}")
    if absolute(uri) in map(absolute, kept):
        raise ConfigError(f"--to {uri}: is read by this command; name another file")
    for output in outputs:
        if is_in_output(output, uri):
            raise ConfigError(f"--to {uri}: is a part of the output {output.uri}; name another place")
        with translate_errors(OutputError, f"cannot read {output.uri}"):
            if absolute(uri) in input_uris(output):
                raise ConfigError(f"--to {uri}: is the input of the job that made {output.uri}; name another file")
    return folder_of(folder or slash or ".", arguments), name
