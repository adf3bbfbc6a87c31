"""Sapiens and Sapiens2 in one job, from `check` to every reader: the job file and commands are those of the page."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import sapiens_ray as sr
from sapiens_ray.cli import main
from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.conversion import convert
from sapiens_ray.models.loading import recipe_of
from sapiens_ray.output.reading import labels_of
from sapiens_ray.reporting.drawing import tasks_of
from sapiens_ray.storage import Folder
from tests.conftest import ROOT, Finished, read_output, write_photos
from tests.small_models import small, small2, write

PAGE = (ROOT / "docs" / "sapiens2.md").read_text()


def call(folder: Path, *arguments: object) -> Finished:
    """`sapiens-ray ARGUMENTS` in a folder, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(map(str, arguments)))
    return Finished(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, cluster) -> Iterator[tuple[Path, dict[str, Finished]]]:
    """What the commands of the page leave, and what they print."""
    folder = tmp_path_factory.mktemp("both")
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (folder / "both.yaml").write_text(text)
    write_photos(folder / "photos", 2, 300, 200)
    write(folder / "sapiens_seg.pth", small("seg"), "pth")
    for task in ("seg", "normal", "pose", "features", "pointmap", "matting"):
        name = "pretrain" if task == "features" else task
        write(folder / f"sapiens2_{name}.safetensors", small2(task), "safetensors")
    (commands,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    printed = {}
    for line in commands.splitlines():
        words = shlex.split(line)[1:]
        key = f"export {words[words.index('--format') + 1]}" if words[0] == "export" else words[0]
        printed[key] = done = call(folder, *words)
        assert done.code == 0, f"{line}\n{done.text}"
    yield folder, printed


def test_the_commands_tell_which_model_it_is(labelled):
    _, printed = labelled
    assert "Sapiens2 seg model (32 wide, 2 layers, 29 classes)" in printed["checkpoints"].out
    assert "32 wide, 2 layers, 4 heads, 2 for keys in 1 of them" in printed["checkpoints"].out
    assert "seg2: seg, mode float32, Sapiens2 with rope bfloat16" in printed["check"].out
    assert "seg: seg, mode float32\n" in printed["check"].out
    assert "2 (2 ok, 0 errors)" in printed["run"].out
    assert "seg left out: it was not made by a model of Sapiens2" in printed["export sapiens2"].err


def test_labels_know_their_recipe(labelled):
    folder, _ = labelled
    rows = sr.read_labels(folder / "labels", decode=True)
    stored = {labels.column: labels for labels in labels_of(Folder(str(folder / "labels")))}
    assert {column: labels.recipe for column, labels in stored.items()} == {
        "seg": "lite", "seg2": "sapiens2", "normal": "sapiens2", "persons": "sapiens2", "features": "sapiens2",
        "pointmap": "sapiens2", "matting": "sapiens2",
    }  # fmt: skip
    assert len(stored["seg"].class_names) == 28 and stored["seg2"].class_names[2] == "Eyeglass"
    assert len(stored["seg2"].class_swap_pairs) == 8 and stored["seg2"].background == 0
    for row in rows.to_dict("records"):
        size = (row["height"], row["width"])
        assert row["seg"].shape == row["seg2"].shape == size and row["seg2"].max() <= 28
        # 300 x 200 photos: 768 x 512 of the input show them.
        assert max(row["normal"].shape[:2]) in (768, 1023, 1024) or row["normal"].shape[1] == 768
        assert np.abs(np.linalg.norm(row["normal"].astype(float), axis=-1) - 1).max() < 2e-3
        assert row["features_map"].shape == (32, 64, 48)
        assert row["pointmap"].shape == row["normal"].shape and row["pointmap"].dtype == np.float32
        seen = row["seg2"] > 0
        inside = cv2.resize(seen.view(np.uint8), row["pointmap"].shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        z = row["pointmap"][..., 2][inside]
        found = [row[f"pointmap_{name}"] for name in ("min_m", "depth_m", "max_m")]
        assert found == pytest.approx([z.min(), np.median(z), z.max()])
        assert row["matting"].shape == (1024, 768) and 0 <= row["matting"].min() < row["matting"].max() <= 1
        assert row["matting_share"] == pytest.approx(row["matting"].mean(), abs=0.002)
    record = yaml.safe_load((folder / "labels" / "job.yaml").read_text())
    assert [model.get("recipe") for model in record["models"]] == [None, *["sapiens2"] * 6]
    assert "rope" not in record["result_settings"]["tasks"][1], "the default is not recorded: outputs are continued"
    assert [task.options.recipe.name for task in tasks_of(record)] == ["lite", *["sapiens2"] * 6]


def test_every_reader_takes_the_labels(labelled):
    folder, _ = labelled
    files = sorted(path.relative_to(folder / "files").as_posix() for path in (folder / "files").rglob("*.*"))
    stems = [path.stem for path in sorted((folder / "photos").iterdir())]
    assert {name.split("/")[0] for name in files} == {"seg2", "normal", "persons", "features", "pointmap", "matting"}
    seg = np.load(folder / "files" / "seg2" / f"{stems[0]}_seg.npy")
    normal = np.load(folder / "files" / "normal" / f"{stems[0]}.npy")
    assert seg.dtype == np.int64 and normal.dtype == np.float32 and normal.shape == (*seg.shape, 3)
    points = np.load(folder / "files" / "pointmap" / f"{stems[0]}.npy")
    depth = np.load(folder / "files" / "pointmap" / f"{stems[0]}_depth.npy")
    assert points.shape == normal.shape and np.array_equal(depth, points[..., 2].astype(np.float16))
    assert np.load(folder / "files" / "matting" / f"{stems[0]}_alpha.npy").shape == seg.shape
    cloud = (folder / "clouds" / "pointmap" / f"{stems[0]}.ply").read_bytes()
    size = int(re.search(rb"element vertex (\d+)", cloud)[1])
    assert len(cloud.partition(b"end_header\n")[2]) == size * 15 > 0
    frame = json.loads((folder / "files" / "persons" / f"{stems[0]}.json").read_text())
    assert frame["image_size"] == [seg.shape[1], seg.shape[0]]
    for form in ("lite", "coco", "masks"):
        done = call(folder, "export", "labels", "--format", form, "--to", f"as-{form}")
        assert done.code == 0, done.text
    categories = json.loads((folder / "as-coco" / "seg2.json").read_text())["categories"]
    assert len(categories) == 28 and categories[1] == {"id": 2, "name": "Eyeglass"}
    assert (folder / "report.html").stat().st_size > 10_000 or list(folder.rglob("report.html"))


def test_another_rope_is_another_output(labelled):
    folder, _ = labelled
    refused = call(folder, "check", "both.yaml", "--set", "tasks.1.rope=float32")
    assert refused.code == 2 and "tasks[1].rope: was bfloat16, now float32" in refused.err
    again = call(folder, "check", "both.yaml", "--set", "tasks.1.rope=bfloat16")
    assert again.code == 0, again.text


def test_pictures_have_the_colours_of_sapiens2(labelled):
    folder, _ = labelled
    row = read_output(folder / "labels").to_pylist()[0]
    assert (folder / "labels" / row["visualization"]).is_file()
    pictures = {path.parent.name for path in (folder / "labels" / "visualizations").rglob("*.jpg")}
    assert {"seg", "seg2", "normal", "persons", "pointmap", "matting"} <= pictures
    schema = pq.read_schema(next((folder / "labels" / "data").iterdir()))
    assert b'"recipe": "sapiens2"' in schema.metadata[b"sapiens_ray.job"]


@pytest.mark.nightly
def test_conversion_keeps_what_a_checkpoint_says_of_itself(tmp_path):
    source = write(tmp_path / "model.safetensors", small2("normal"), "safetensors")
    for to, name in (("safetensors", "copy.safetensors"), ("bfloat16", "copy.pt2")):
        done = convert(source, to, tmp_path / name)
        assert done.architecture.task == "normal" and recipe_of(tmp_path / name) == recipe_of(source)
    with pytest.raises(CheckpointError, match="a TorchScript program would not say that its inputs are not those of"):
        convert(source, "torchscript", tmp_path / "copy_torchscript.pt2")
