"""`sapiens-ray init`."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sapiens_ray.cli.answers import print_json
from sapiens_ray.cli.arguments import Subparsers, add_json, add_quiet, did_you_mean, folder_of, with_examples
from sapiens_ray.cli.console import one_line, size
from sapiens_ray.errors import ConfigError, InputError

if TYPE_CHECKING:
    from sapiens_ray.planning.survey import Survey

KINDS = {"webdataset": "tar", "parquet": "Parquet file", "video": "video"}


def add_init(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    init = commands.add_parser(
        "init", help="write a first job file for a folder of images",
        **with_examples(
            "sapiens-ray init photos",
            "sapiens-ray init photos --tasks seg,pose308 --output people.yaml",
            "sapiens-ray init s3://bucket/photos/ --tasks seg-0.3b,features",
        ),
    )  # fmt: skip
    init.add_argument("input", metavar="INPUT", help="folder, tar, Parquet file or list, local or a URL")
    init.add_argument(
        "--tasks", default="seg", metavar="NAMES",
        help="tasks, or names of checkpoints, separated by commas, such as seg,depth,pose17-0.3b; default: seg",
    )  # fmt: skip
    init.add_argument("--output", default="job.yaml", metavar="FILE", dest="to", help="the file; default: job.yaml")
    init.add_argument("--labels", metavar="DIR", help="where its labels go; default: labels/NAME, of a URL beside it")
    init.add_argument(
        "--format", metavar="FORMAT", default="auto", help="of an input that holds several kinds of files"
    )
    init.add_argument("--force", action="store_true", help="replace an existing file")
    init.add_argument(
        "--storage-option", action="append", default=[], metavar="KEY=VALUE", dest="storage_options",
        help="passed to fsspec for the input, and written to the job; secrets as environment variables",
    )  # fmt: skip
    add_json(init)
    add_quiet(init, "print nothing but errors and the path of the file")
    init.set_defaults(command=_init)


def _init(arguments: argparse.Namespace) -> int:
    from sapiens_ray.job.draft import Draft, chosen_models, job_text, secret_variables

    models = chosen_models(arguments.tasks)
    file = Path(arguments.to)
    if file.is_dir():
        raise ConfigError(f"--output {file}: is a folder; name a file, such as {file / 'job.yaml'}")
    if file.exists() and not arguments.force:
        raise ConfigError(f"--output {file}: exists already; name another file, or replace it with --force")
    if not file.parent.is_dir():
        raise ConfigError(f"--output {file}: the folder {file.parent} does not exist")

    from sapiens_ray.job.config import Input
    from sapiens_ray.planning.survey import survey
    from sapiens_ray.sources import SOURCES
    from sapiens_ray.storage.uris import without_query

    if arguments.format not in (formats := ["auto", *SOURCES]):
        hint = did_you_mean(arguments.format, formats) or f"; the formats are {', '.join(formats)}"
        raise ConfigError(f"--format {arguments.format}: is no format{hint}")
    options = folder_of("", arguments).options
    given = _whole(arguments.input)
    name = re.sub(r"\.(tar|tar\.gz|parquet|txt|csv|jsonl)$", "", without_query(given).rstrip("/").rpartition("/")[2])
    name = name or "job"
    labels = arguments.labels or _labels(given, name)
    try:
        seen = survey(Input(uri=[given], format=arguments.format, storage_options=options), labels)
    except InputError as error:  # speaks of fields of a job file, which is still to be written
        raise InputError(re.sub(r"set input\.format:?", "give --format", str(error))) from None
    draft = Draft(
        name, _from(file, given), _from(file, labels), models, _about(seen),
        arguments.format if arguments.format != "auto" else "", seen.box_column, options,
    )  # fmt: skip
    text = job_text(draft, shlex.quote(file.name))
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{one_line(given)}: has a name that is not UTF-8, which YAML cannot hold") from None
    _validate(text, file, name, given, labels)
    file.write_bytes(data)
    return _tell(arguments, file, given, seen, [model.name for model in models], secret_variables(options))


def _labels(given: str, name: str) -> str:
    """Where the labels of an input go: beside it on a storage, but below the current folder for files of this machine
    and of a web server, which takes no files."""
    from sapiens_ray.storage import is_remote

    if not is_remote(given) or "http://" in given or "https://" in given:
        return os.path.abspath(f"labels/{name}")
    above = given.rstrip("/").rpartition("/")[0]
    return f"{given.rstrip('/')}/labels" if above.endswith(":/") else f"{above}/{name}-labels"


def _from(file: Path, uri: str) -> str:
    """A path as the job file names it: relative to its folder if it lies there, else absolute; URLs stay."""
    path = _whole(uri)
    if "://" in path:
        return path
    relative = os.path.relpath(path, file.resolve().parent)
    return path if relative.startswith(("..", "~")) else relative


def _whole(uri: str) -> str:
    """A URL, or an absolute path."""
    from sapiens_ray.storage import is_remote, local_path

    return uri if is_remote(uri) else os.path.abspath(local_path(uri))


def _about(seen: Survey) -> str:
    """What the input holds, in words."""
    from sapiens_ray.output.summary import counted

    most = "more than " if seen.more else ""
    if seen.files:
        text = f"{most}{counted(seen.files, KINDS.get(seen.format, 'file'))}"
        text += f", {counted(seen.images, 'image')}" if seen.images is not None else ""
    else:
        text = f"{most}{counted(seen.images or 0, 'image')}"
    if seen.middle:
        width, height, data = seen.middle
        text += f"; median of {len(seen.sizes)}: {width} x {height}, {size(data)}"
    return text


def _validate(text: str, file: Path, name: str, given: str, labels: str) -> None:
    """Raise ConfigError for a draft that `run` would refuse, or would understand as something else: to a job file,
    `${X}` in a path is a variable."""
    import yaml

    from sapiens_ray.job.config import Job
    from sapiens_ray.job.raw import ENV_PATTERN, read_yaml, resolve_paths
    from sapiens_ray.storage.uris import redact_uri

    try:
        raw = read_yaml(text.encode())
    except yaml.YAMLError:
        raise ConfigError(f"{one_line(given)}: has a name that YAML cannot hold; rename it") from None
    for section in ("input", "output"):
        raw[section].pop("storage_options", None)
    for meant in (name, given, labels):
        if variable := ENV_PATTERN.search(meant):
            raise ConfigError(
                f"{one_line(redact_uri(meant))}: to a job file, {variable[0]} is an environment variable; rename it"
            )
    job = Job.parse(resolve_paths(raw, file.resolve().parent), source=str(file))
    for meant, read in ((name, job.name), (given, job.input.uri[0]), (_whole(labels), job.output.uri)):
        if read != meant:
            raise ConfigError(
                f"{one_line(redact_uri(meant))}: a job file cannot name it; it would mean {one_line(redact_uri(read))}"
            )


def _tell(
    arguments: argparse.Namespace, file: Path, given: str, seen: Survey, models: list[str], secrets: dict[str, str]
) -> int:
    from sapiens_ray.cli.tables import Facts
    from sapiens_ray.storage.uris import redact_uri

    if arguments.json:
        print_json({
            "job": str(file), "input": redact_uri(given), "format": seen.format, "images": seen.images,
            "files": seen.files, "more": seen.more, "sampled": len(seen.sizes), "unusable": len(seen.failed),
            "box_column": seen.box_column, "checkpoints": models, "variables": sorted(secrets.values()),
        })  # fmt: skip
        return 0
    if arguments.quiet:
        print(file)
        return 0
    table = Facts()
    table.add_whole("input", redact_uri(given))
    table.add("", _about(seen))
    if seen.left_out:
        frames = "; `--format video` writes a job for frames of videos" if seen.left_out.videos else ""
        table.add("", f"{seen.left_out}{frames}")
    if seen.failed:
        table.add("", f"{len(seen.failed)} of the sample cannot be used, such as {one_line(seen.failed[0])}")
    table.add("tasks", ", ".join(models))
    if any(name.startswith("pose") for name in models):
        table.add("boxes", f"of the column {seen.box_column}" if seen.box_column else "of a person detector")
    for key, variable in secrets.items():
        table.add("set", f"{variable} in the environment of the job: it stands for {key}, which the file does not hold")
    table.add_whole("job", str(file))
    for place, what in enumerate(("check", "preview", "run")):
        table.add_whole("" if place else "next", f"sapiens-ray {what} {shlex.quote(str(file))}")
    table.print()
    return 0
