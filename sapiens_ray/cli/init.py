"""`sapiens-ray init`."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sapiens_ray.cli.answers import print_json
from sapiens_ray.cli.arguments import Subparsers, add_json, add_quiet, folder_of, with_examples
from sapiens_ray.cli.console import one_line, size
from sapiens_ray.errors import ConfigError

if TYPE_CHECKING:
    from sapiens_ray.planning.survey import Survey

KINDS = {"webdataset": "tar", "parquet": "Parquet file"}


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
    if file.exists() and not arguments.force:
        raise ConfigError(f"--output {file}: exists already; name another file, or replace it with --force")
    if not file.parent.is_dir():
        raise ConfigError(f"--output {file}: the folder {file.parent} does not exist")

    from sapiens_ray.job.config import Input
    from sapiens_ray.planning.survey import survey
    from sapiens_ray.storage import is_remote, local_path

    options = folder_of("", arguments).options
    given = arguments.input if is_remote(arguments.input) else os.path.abspath(local_path(arguments.input))
    name = re.sub(r"\.(tar|tar\.gz|parquet|txt|csv|jsonl)$", "", given.rstrip("/").rpartition("/")[2]) or "job"
    labels = arguments.labels or _labels(given, name)
    seen = survey(Input(uri=[given], format=arguments.format, storage_options=options), labels)
    draft = Draft(
        name, _from(file, given), _from(file, labels), models, _about(seen),
        arguments.format if arguments.format != "auto" else "", seen.box_column, options,
    )  # fmt: skip
    text = job_text(draft, file.name)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{one_line(given)}: has a name that is not UTF-8, which YAML cannot hold") from None
    _validate(text, file)
    file.write_bytes(data)
    return _tell(arguments, file, given, seen, [model.name for model in models], secret_variables(options))


def _labels(given: str, name: str) -> str:
    """Where the labels of an input go: beside it on a storage, else below the current folder."""
    from sapiens_ray.storage import is_remote

    if not is_remote(given):
        return os.path.abspath(f"labels/{name}")
    above = given.rstrip("/").rpartition("/")[0]
    return f"{given.rstrip('/')}/labels" if above.endswith(":/") else f"{above}/{name}-labels"


def _from(file: Path, uri: str) -> str:
    """A path as the job file names it: relative to its folder if it lies there, else absolute; URLs stay."""
    from sapiens_ray.storage import is_remote

    if is_remote(uri):
        return uri
    path = os.path.abspath(uri)
    relative = os.path.relpath(path, file.resolve().parent)
    return path if relative.startswith("..") else relative


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


def _validate(text: str, file: Path) -> None:
    """Raise ConfigError for a draft that `run` would refuse: a name in it, such as `${X}`, may mean something else."""
    import yaml

    from sapiens_ray.job.config import Job

    raw = yaml.safe_load(text)
    for section in ("input", "output"):
        raw[section].pop("storage_options", None)
    Job.parse(raw, source=str(file))


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
        table.add("", str(seen.left_out))
    if seen.failed:
        table.add("", f"{len(seen.failed)} of the sample cannot be used, such as {one_line(seen.failed[0])}")
    table.add("tasks", ", ".join(models))
    if any(name.startswith("pose") for name in models):
        table.add("boxes", f"of the column {seen.box_column}" if seen.box_column else "of a person detector")
    for key, variable in secrets.items():
        table.add("set", f"{variable} in the environment of the job: it stands for {key}, which the file does not hold")
    table.add_whole("job", str(file))
    for place, what in enumerate(("check", "preview", "run")):
        table.add_whole("" if place else "next", f"sapiens-ray {what} {file}")
    table.print()
    return 0
