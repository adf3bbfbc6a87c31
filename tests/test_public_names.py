"""What other programs import and call: these names stay."""

from __future__ import annotations

import inspect
import pydoc
import re
import subprocess
import sys
from importlib.metadata import entry_points

import sapiens_ray as sr


def test_public_names():
    assert sr.__all__ == [
        "Job", "Labeler", "__version__", "class_names", "keypoint_links", "keypoint_names", "read_labels", "run",
    ]  # fmt: skip
    assert dir(sr) == sorted(sr.__all__)
    import sapiens_ray.execution.pipeline  # noqa: F401  (a module must not take the place of a public name)

    assert callable(sr.run) and callable(sr.read_labels)
    assert inspect.isclass(sr.Job) and inspect.isclass(sr.Labeler)
    assert list(inspect.signature(sr.run).parameters) == [
        "job", "address", "redo_changed", "retry_errors", "restart", "limit", "sample", "seed", "on_progress",
        "on_ray_ready", "on_wait", "on_start",
    ]  # fmt: skip
    assert list(inspect.signature(sr.read_labels).parameters) == [
        "output", "engine", "columns", "decode", "size", "where", "storage_options",
    ]  # fmt: skip
    assert list(inspect.signature(sr.Labeler).parameters) == [
        "task", "checkpoint", "tasks", "device", "batch_size", "max_pixels", "unit_size", "options",
    ]  # fmt: skip
    assert list(inspect.signature(sr.Labeler.__call__).parameters) == ["self", "images", "decode", "size", "columns"]
    assert list(inspect.signature(sr.Labeler.preview).parameters) == ["self", "image", "visualize", "columns"]
    assert list(inspect.signature(sr.class_names).parameters) == ["task", "count"]
    assert list(inspect.signature(sr.keypoint_names).parameters) == ["count"]
    assert list(inspect.signature(sr.keypoint_links).parameters) == ["count"]
    assert list(inspect.signature(sr.Job.load).parameters) == ["path", "overrides"]
    assert list(inspect.signature(sr.Job.parse).parameters) == ["raw", "source"]


def test_names_for_training_loops():
    import torch

    import sapiens_ray.torch as labels

    assert labels.torch is torch, "the module of the same name is not its own import"
    assert labels.__all__ == ["IterableLabelDataset", "LabelDataset", "collate"]
    assert list(inspect.signature(labels.LabelDataset).parameters) == [
        "output", "columns", "where", "size", "photos", "transform", "storage_options",
    ]  # fmt: skip
    assert list(inspect.signature(labels.LabelDataset.iterable).parameters) == [
        "self", "shuffle", "seed", "buffer", "even", "rank", "world_size",
    ]  # fmt: skip


def test_help_lists_every_public_name_with_its_first_line():
    shown = pydoc.render_doc(sr, renderer=pydoc.plaintext)
    assert shown.index("DESCRIPTION") < shown.index("Labels images in this process") < shown.index("PACKAGE CONTENTS")
    listed = dict(re.findall(r"^    (\w+) {2,}(\S.*)$", sr.__doc__, re.MULTILINE))
    assert sorted(listed) == [name for name in sr.__all__ if name != "__version__"]
    for name, line in listed.items():
        assert inspect.getdoc(getattr(sr, name)).split("\n")[0].startswith(line), name
    for name in ("Labeler", "read_labels", "class_names"):
        assert "Raises" in pydoc.render_doc(getattr(sr, name), renderer=pydoc.plaintext)


def test_the_console_script_is_the_command_line():
    (script,) = [point for point in entry_points(group="console_scripts") if point.name == "sapiens-ray"]
    assert script.value == "sapiens_ray.cli:main"


def test_errors_can_be_caught_without_another_import():
    code = "import sapiens_ray as sr; print(issubclass(sr.errors.InputError, sr.errors.SapiensRayError))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_importing_the_package_imports_nothing_heavy():
    """Nor does the command line, whose `--help` would wait for it."""
    heavy = {"ray", "torch", "cv2", "numpy", "pyarrow", "pydantic", "fsspec"}
    for name in ("sapiens_ray", "sapiens_ray.cli"):
        code = f"import sys, {name}; print({heavy} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()", name


def test_importing_leaves_the_settings_of_libraries():
    """OpenCV's log level and Pillow's limit belong to the user, also after images were decoded."""
    code = """
import cv2, numpy as np
from PIL import Image
before = cv2.utils.logging.getLogLevel(), Image.MAX_IMAGE_PIXELS
from sapiens_ray.imaging import images
images.decode(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes(), 100)
for data in (b"\\x89PNG broken", b"\\xff\\xd8\\xff\\xe0 cut off"):
    images.header_size(data)
    try:
        images.decode(data, 100)
    except images.ImageError as error:
        assert error.kind == "corrupt"
print((cv2.utils.logging.getLogLevel(), Image.MAX_IMAGE_PIXELS) == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("True", "")
