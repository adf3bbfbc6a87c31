"""A first job file, with comments, for somebody who will change it."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from sapiens_ray.errors import ConfigError
from sapiens_ray.models.catalogue import CATALOGUE, LICENCE, Published
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks.sections import Settings

SIZE = "1b"  # of a task that names none
WORDS = {"seg": "seg", "depth": "depth", "normal": "normal", "features": "pretrain", "pose": "pose308",
         "pose17": "pose17", "pose133": "pose133", "pose308": "pose308"}  # fmt: skip
ABOUT = {
    "seg": "28 classes of body parts and clothes",
    "depth": "relative depth",
    "normal": "surface normals",
    "features": "the backbone's features, one vector per image",
    "pose": "persons with their keypoints",
}
PLAIN = re.compile(r"[\w./~+-][\w ./:@+=,-]*")  # text that YAML reads as it is written
COMMENT_AT = 38  # column
PUBLIC_OPTIONS = ("endpoint_url", "anon", "profile", "region_name")  # of a storage; all others may be secrets
NOT_IN_VARIABLES = re.compile(r"[^A-Z0-9_]")


@dataclass
class Draft:
    """What is known of a job that is to be written.

    about_input: a comment. box_column: a column of the input with boxes of persons. storage_options: of input and
    output.
    """

    name: str
    input_uri: str
    output_uri: str
    models: Sequence[Published]
    about_input: str = ""
    input_format: str = ""
    box_column: str | None = None
    storage_options: Settings = field(default_factory=dict)


def chosen_models(words: str) -> list[Published]:
    """The models of a list such as `seg,pose308` or `seg-0.3b,pose17`: names of tasks, in their 1b size, or of the
    catalogue. Raises ConfigError for another word."""
    found = []
    for word in filter(None, (one.strip() for one in words.split(","))):
        name = word if word in CATALOGUE else f"{WORDS.get(word, word)}-{SIZE}"
        if name not in CATALOGUE:
            known = [*WORDS, *CATALOGUE]
            close = difflib.get_close_matches(word, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"tasks are {', '.join(WORDS)}"
            raise ConfigError(f"--tasks {word}: is no task, and no name of the catalogue; {hint}")
        found.append(CATALOGUE[name])
    if not found:
        raise ConfigError(f"--tasks: name at least one of {', '.join(WORDS)}")
    return found


def secret_variables(options: Settings) -> dict[str, str]:
    """The options of a storage that a job file must not hold, each with the environment variable in its place: all that
    are not known to be none, and URLs with a password."""
    return {
        key: f"STORAGE_{NOT_IN_VARIABLES.sub('_', key.upper())}"
        for key, value in options.items()
        if key not in PUBLIC_OPTIONS or redact_uri(str(value)) != str(value)
    }


def job_text(draft: Draft, file_name: str) -> str:
    """The job file as YAML. file_name: of the file, quoted for the commands in its comments."""
    lines = [
        f"# `sapiens-ray preview {file_name}` labels a few images to look at, `sapiens-ray run {file_name}` all.",
        "# `sapiens-ray schema` documents every field. Relative paths are relative to this file.",
        f"name: {scalar(draft.name)}",
        "",
        "input:",
        _line(f"  uri: {scalar(draft.input_uri)}", draft.about_input),
    ]
    if draft.input_format:
        lines.append(f"  format: {draft.input_format}")
    lines += [*_storage(draft.storage_options), "", "output:", f"  uri: {scalar(draft.output_uri)}"]
    lines.append(
        _line("  # visualize: {fraction: 0.01}", "pictures of 1 %; default: all of up to 1,000 images, else 1 %")
    )
    lines += [*_storage(draft.storage_options), "", "tasks:"]
    columns: set[str] = set()
    for model in draft.models:
        lines += _task(model, draft.box_column, columns)
    lines += ["", _line("# device: cuda", "default: GPUs if there are any, else CPUs, which are slow")]
    return "\n".join(lines) + "\n"


def _task(model: Published, box_column: str | None, columns: set[str]) -> list[str]:
    """The lines of a task. columns: those of the tasks before it; its own is added."""
    task = {"pretrain": "features"}.get(model.kind, re.sub(r"\d+$", "", model.kind))
    lines = [_line(f"  - task: {task}", ABOUT[task])]
    column = {"pose": "persons"}.get(task, task)
    if column in columns:
        column = _free(re.sub(r"\W", "_", model.name), columns)
        lines.append(_line(f"    name: {column}", "of the column, since another task has the usual one"))
    columns.add(column)
    if task == "pose":
        lines.append(f"    keypoints: {model.kind.removeprefix('pose')}")
        if box_column:
            lines.append(_line(f"    boxes: {{column: {scalar(box_column)}}}", "of the input; or: detector, seg, none"))
        else:
            lines.append(
                _line("    boxes: detector", "torchvision's, downloaded; none: the photo is the box; {column: name}")
            )
    size = f"{model.file_bytes('torchscript') / 1e9:.1f} GB, downloaded once; {LICENCE}"
    lines.append(_line(f"    checkpoint: {model.name}", size))
    lines.append(_line("    # mode: bfloat16", "faster, half the memory; default: float32"))
    return lines


def _free(name: str, taken: set[str]) -> str:
    """A name, with a number after it if it is taken."""
    others = (f"{name}_{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], others) if one not in taken)


def _storage(options: Settings) -> list[str]:
    """The options of a storage, with environment variables in the place of secrets."""
    if not options:
        return []
    hidden = secret_variables(options)
    values = {key: f"${{{hidden[key]}}}" if key in hidden else value for key, value in options.items()}
    return [f"  storage_options: {json.dumps(values)}"]


def scalar(text: str) -> str:
    """Text as YAML: quoted where it would mean something else."""
    plain = PLAIN.fullmatch(text) and ": " not in text and not text.endswith((":", " ")) and not _is_no_text(text)
    return text if plain else "".join(map(_escaped, json.dumps(text, ensure_ascii=False)))


def _escaped(char: str) -> str:
    """A character in quotes. YAML folds some that do not print, such as U+0085, and refuses others. What stands for a
    byte that is not UTF-8 stays: no file can hold it."""
    return char if char.isprintable() or "\ud800" <= char <= "\udfff" else f"\\U{ord(char):08x}"


def _is_no_text(text: str) -> bool:
    """Whether YAML may read a word as a number, a date or a truth value."""
    return (
        text.lower() in ("", "y", "n", "yes", "no", "on", "off", "true", "false", "null", "~")
        or text[0] in "0123456789.+-~"
    )


def _line(text: str, comment: str) -> str:
    return f"{text.ljust(COMMENT_AT)} # {comment}" if comment else text
