"""What changed between the settings of an output and those of a job, in the words of the job file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import yaml

from sapiens_ray.models.catalogue import is_name
from sapiens_ray.tasks.sections import Settings

Files = Mapping[str, str]  # SHA-256 of a checkpoint or COCO file to its path or name
CHOICES = ("boxes", "mask")  # sections that are stored with their `source` and all their keys
LABELS = ("classes", "keypoints")  # sections that are stored with the keys that are given
LONGEST = 300  # letters of a value in a message: names of classes may fill pages
MODES = {"torchscript": "float32"}  # how modes are stored, if not as they are written today
UNRECORDED = {"matmul": "strict", "rope": "bfloat16"}  # what settings that are not stored at their default are then
# Field of a digest to that of the file.
FILES = {"sha256": "checkpoint", "detector_sha256": "boxes.detector", "coco_sha256": "boxes.coco"}


def changes(
    old: Settings, new: Settings, old_files: Files, new_files: Files, new_names: Sequence[str] = ()
) -> list[str]:
    """One line per setting that differs. old, new: `Job.result_settings`, old_files, new_files: of their models.

    new_names: what each task of `new` names as its checkpoint. An empty digest in `new` is that of a file which is not
    on this machine. It equals any, except that a name of the catalogue does not equal another one.
    """
    lines = [
        _was(f"{section}.{key}".lstrip("."), before.get(key), after.get(key))
        for section, before, after in (("", _plain(old), _plain(new)), ("input", old["input"], new["input"]))
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]
    if len(old["tasks"]) != len(new["tasks"]):
        return [*lines, f"tasks: were {_named(old['tasks'])}, now {_named(new['tasks'])}"]
    for number, (before, after) in enumerate(zip(old["tasks"], new["tasks"], strict=True)):
        where = f"tasks[{number}]"
        lines += _of_task(where, before, after, old_files, new_files)
        old_name = old_files.get(before["sha256"], "")
        if not after["sha256"] and is_name(old_name) and is_name(new_names[number]) and old_name != new_names[number]:
            lines.append(f"{where}.checkpoint: {_other_file(old_name, new_names[number])}")
    return lines


def _plain(settings: Settings) -> Settings:
    return {key: value for key, value in settings.items() if key not in ("tasks", "input")}


def _named(tasks: list[Settings]) -> str:
    return ", ".join(task.get("name") or task["task"] for task in tasks)


def _of_task(where: str, old: Settings, new: Settings, old_files: Files, new_files: Files) -> list[str]:
    if old["task"] != new["task"]:
        return [f"{where}: was {old['task']}, now {new['task']}"]
    lines = []
    for key in sorted({*old, *new}):
        before, after = (settings.get(key, UNRECORDED.get(key)) for settings in (old, new))
        if before == after:
            continue
        if key in FILES:
            if before and after:  # else there is a detector or a COCO file in only one of them, which is told anyway
                names = old_files.get(before, before), new_files.get(after, after)
                lines.append(f"{where}.{FILES[key]}: {_other_file(*names)}")
        elif key in LABELS and isinstance(before, dict) and isinstance(after, dict):
            lines += [
                _was(f"{where}.{key}.{name}", before.get(name), after.get(name))
                for name in sorted({*before, *after})
                if before.get(name) != after.get(name)
            ]
        elif key in CHOICES and isinstance(before, dict) and isinstance(after, dict):
            lines += _of_choice(f"{where}.{key}", before, after)
        elif key == "mode":
            lines.append(_was(f"{where}.mode", *(MODES.get(str(mode), mode) for mode in (before, after))))
        else:
            lines.append(_was(f"{where}.{key}", before, after))
    return lines


def _other_file(old: str, new: str) -> str:
    if old != new:
        return f"was {old}, now {new}"
    return f"{new} is another file than it was (its SHA-256 differs)"


def _of_choice(where: str, old: Settings, new: Settings) -> list[str]:
    """A change of a section that is written as one word, or as one key with its value."""
    source = new["source"]
    if old["source"] == source and isinstance(old.get(source), dict) and isinstance(new.get(source), dict):
        before, after = old[source], new[source]
        keys = sorted({*before, *after})
        pairs = [(key, before.get(key), after.get(key)) for key in keys]
        return [_was(f"{where}.{source}.{key}", a, b) for key, a, b in pairs if a != b]
    return [_was(where, _as_written(old), _as_written(new))]


def _as_written(section: Settings) -> object:
    source = section["source"]
    value = section.get(source)
    return source if value is None else {source: value}


def _was(where: str, old: object, new: object) -> str:
    """The line of a change; of a long list or mapping, that of the first entry that differs."""
    if max(len(_whole(old)), len(_whole(new))) > LONGEST:
        if isinstance(old, list) and isinstance(new, list):
            pairs = enumerate(itertools.zip_longest(old, new))
            return next(_was(f"{where}[{place}]", a, b) for place, (a, b) in pairs if a != b)
        if isinstance(old, dict) and isinstance(new, dict):
            key = next(key for key in [*old, *new] if old.get(key) != new.get(key))
            return _was(f"{where}.{key}", old.get(key), new.get(key))
    return f"{where}: was {_spelled(old)}, now {_spelled(new)}"


def _spelled(value: object) -> str:
    """A value as in a job file, cut if it is long."""
    text = _whole(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _whole(value: object) -> str:
    if value is None:
        return "not given"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n...\n").strip()
