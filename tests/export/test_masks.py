"""One PNG per class."""

from __future__ import annotations

import cv2
import numpy as np

from sapiens_ray.export.masks import class_files
from sapiens_ray.labels import body_parts
from tests.evaluation.labelled import write_labels
from tests.export.groups import SEG, broken, class_map_of, row


def test_a_png_for_every_class_of_an_image(command, tmp_path):
    rows = [row("a/b.jpg", [10]), broken("broken.jpg"), row("c.jpg", [])]
    write_labels(tmp_path / "out", [SEG], rows)
    done = command("export", tmp_path / "out", "--format", "masks", "--per-class", "--to", tmp_path / "to")
    assert done.code == 0 and "2 images exported, 1 error row skipped" in done.out, done.text
    files = {str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*.png")}
    assert files == {"seg/a/b/Background.png", "seg/a/b/Face_Neck.png", "seg/a/b/Torso.png", "seg/c/Background.png"}
    classes = class_map_of(rows[0])
    for number, name in enumerate(body_parts().names):
        if (classes == number).any():
            mask = cv2.imread(str(tmp_path / "to" / "seg" / "a" / "b" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
            assert mask.dtype == np.uint8 and np.array_equal(mask, np.where(classes == number, 255, 0))


def test_names_of_classes_are_names_of_files():
    assert class_files(["Hair", "hair", "a/b", "..", "left arm (upper)", "Tür"]) == [
        "Hair-0.png", "hair-1.png", "a_b.png", "_.png", "left arm (upper).png", "Tür.png",
    ]  # fmt: skip
