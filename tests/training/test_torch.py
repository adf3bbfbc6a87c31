"""`sapiens_ray.torch`: rows as tensors, for a training loop."""

from __future__ import annotations

import math
import pickle

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import sapiens_ray as sr
from sapiens_ray.errors import ConfigError, InputError, OutputError
from sapiens_ray.output.writing import merge_shard
from sapiens_ray.storage import Folder
from sapiens_ray.torch import LabelDataset, collate
from sapiens_ray.units import UnitName
from tests.export.groups import instance_map, write_group
from tests.export.groups import row as group_row
from tests.reporting.made import error_row, write_file, write_rows
from tests.training.conftest import ROWS, Made

NAMES = [f"{number:02d}.png" for number in range(ROWS)]


def ids(items) -> list[str]:
    return [item["image_id"] for item in items]


def test_items_equal_what_read_labels_gives(made: Made):
    labels = LabelDataset(made.folder)
    assert len(labels) == ROWS
    read = sr.read_labels(made.folder, decode=True)
    read = read[read["error_kind"].isna()].reset_index(drop=True)
    for number in range(ROWS):
        item, row = labels[number], read.loc[number]
        assert set(item) == {"image_id", "width", "height", "seg", "depth", "normal", "persons"}
        assert (item["image_id"], item["width"], item["height"]) == (row["image_id"], row["width"], row["height"])
        assert item["seg"].dtype == torch.uint8 and np.array_equal(item["seg"].numpy(), row["seg"])
        assert item["depth"].dtype == torch.float32 and np.array_equal(item["depth"].numpy(), row["depth"])
        assert np.array_equal(item["normal"].permute(1, 2, 0).numpy(), row["normal"].astype(np.float32))
        persons = item["persons"]
        count = len(row["persons"])
        assert persons["boxes"].shape == (count, 4) and persons["keypoints"].shape == (count, 17, 3)
        for place, person in enumerate(row["persons"]):
            assert np.array_equal(persons["boxes"][place].numpy(), person["box"])
            assert np.allclose(persons["keypoints"][place, :, :2].numpy(), person["keypoints"], atol=1e-4)
            assert np.array_equal(persons["keypoints"][place, :, 2].numpy(), person["scores"])
    assert math.isnan(labels[3]["persons"]["box_scores"][0])
    assert labels[-1]["image_id"] == NAMES[-1]
    with pytest.raises(IndexError, match="row 41 of 41"):
        labels[ROWS]


def test_maps_at_the_size_of_the_photo_equal_those_of_read_labels(made: Made):
    labels = LabelDataset(made.folder, ["depth", "normal"], size="original")
    read = sr.read_labels(made.folder, columns=["depth", "normal"], size="original", where="error_kind is null")
    for number in (0, 17, ROWS - 1):
        item = labels[number]
        assert item["depth"].shape == (160, 120) and np.array_equal(item["depth"].numpy(), read.loc[number, "depth"])
        assert np.array_equal(item["normal"].permute(1, 2, 0).numpy(), read.loc[number, "normal"])


def test_everything_is_resized_alike(made: Made):
    labels = LabelDataset(made.folder, size=(80, 30), photos=True)  # half as high, a quarter as wide
    item, row = labels[5], made.rows[5]
    assert item["photo"].dtype == torch.uint8 and item["photo"].shape == (3, 80, 30)
    photo = cv2.imread(row["uri"])
    expected = cv2.resize(photo, (30, 80), interpolation=cv2.INTER_AREA)[:, :, ::-1].transpose(2, 0, 1)
    assert np.array_equal(item["photo"].numpy(), expected)
    assert item["seg"].shape == (80, 30) and (item["seg"][:, :15] == 3).all() and (item["seg"][:, 15:] == 21).all()
    assert item["depth"].shape == (80, 30) and item["normal"].shape == (3, 80, 30)
    assert torch.allclose(item["normal"].norm(dim=0), torch.ones(80, 30), atol=1e-4)
    person = row["persons"][0]
    assert item["persons"]["boxes"][0].tolist() == [10 / 4, 10 / 2, 110 / 4, 150 / 2]
    places = (np.array(person["keypoints"]) + 0.5) * (0.25, 0.5) - 0.5
    assert np.allclose(item["persons"]["keypoints"][0, :, :2].numpy(), places, atol=1e-4)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 39), st.integers(0, 39))
def test_a_keypoint_stays_on_what_it_showed(width, height, x, y):
    """The centre of a pixel of a small picture is in the middle of its block of a large one, as OpenCV scales."""
    x, y = x % width, y % height
    small = np.zeros((height, width), np.float32)
    small[y, x] = 1
    large = cv2.resize(small, (width * 3, height * 3), interpolation=cv2.INTER_NEAREST_EXACT)
    rows, columns = np.nonzero(large)
    assert ((x + 0.5) * 3 - 0.5, (y + 0.5) * 3 - 0.5) == (columns.mean(), rows.mean())


def test_photos_are_rgb_and_those_of_their_rows(made: Made):
    labels = LabelDataset(made.folder, columns=[], photos=True)
    for number in (0, 19, 20, 33, ROWS - 1):
        photo = cv2.imread(str(made.photos / NAMES[number]))[:, :, ::-1]
        assert np.array_equal(labels[number]["photo"].permute(1, 2, 0).numpy(), photo)
    streamed = list(labels.iterable())
    assert ids(streamed) == NAMES and torch.equal(streamed[33]["photo"], labels[33]["photo"])


def test_other_columns_and_chosen_rows(made: Made):
    labels = LabelDataset(made.folder, ["seg_classes", "seg_confidence", "uri"], where="len(persons) = 3")
    assert len(labels) == 1
    item = labels[0]
    assert item["image_id"] == "02.png" and item["uri"] == str(made.photos / "02.png")
    assert item["seg_classes"].tolist() == [3, 21] and item["seg_confidence"] == pytest.approx(0.6)


def test_batches_of_dense_labels_need_no_collate_function(made: Made):
    loader = DataLoader(LabelDataset(made.folder, ["seg", "depth"], size=(64, 48), photos=True), batch_size=8)
    batches = list(loader)
    assert [len(batch["image_id"]) for batch in batches] == [8] * 5 + [1]
    assert batches[0]["photo"].shape == (8, 3, 64, 48) and batches[0]["seg"].shape == (8, 64, 48)


def test_batches_with_persons_need_one(made: Made):
    loader = DataLoader(LabelDataset(made.folder, size=(64, 48)), batch_size=4, collate_fn=collate)
    batch = next(iter(loader))
    assert batch["normal"].shape == (4, 3, 64, 48) and batch["width"].tolist() == [120] * 4
    assert [len(boxes) for boxes in batch["persons"]["boxes"]] == [1, 0, 3, 1]


@pytest.mark.parametrize(
    ("shuffle", "method"), [(False, "fork"), (True, "fork"), pytest.param(True, "spawn", marks=pytest.mark.nightly)]
)
def test_workers_read_every_row_once(made: Made, shuffle: bool, method: str):
    rows = LabelDataset(made.folder, ["seg"]).iterable(shuffle, buffer=8)
    loader = DataLoader(rows, batch_size=None, num_workers=2, multiprocessing_context=method, persistent_workers=True)
    first = ids(loader)
    assert sorted(first) == NAMES
    if not shuffle:
        assert first[:40:2] == NAMES[:20], "each worker has a range of its own"
        return
    assert ids(loader) == first, "the same epoch"
    rows.set_epoch(1)
    second = ids(loader)
    assert sorted(second) == NAMES and second != first, "workers that live on know the epoch"


def test_a_map_style_loader_with_workers_after_the_parent_has_read(made: Made):
    labels = LabelDataset(made.folder, ["seg"])
    assert labels[30]["image_id"] == NAMES[30]  # leaves a file open
    loader = DataLoader(labels, batch_size=None, shuffle=True, num_workers=2, multiprocessing_context="fork")
    assert sorted(ids(loader)) == NAMES
    assert pickle.loads(pickle.dumps(labels))[7]["image_id"] == NAMES[7]


@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_read_every_row_once(made: Made, shuffle: bool):
    labels = LabelDataset(made.folder, ["seg"])
    for even in (False, True):
        read = [ids(labels.iterable(shuffle, seed=3, even=even, rank=rank, world_size=3)) for rank in range(3)]
        together = [one for rank in read for one in rank]
        assert len(set(together)) == len(together) == (39 if even else 41)
        assert [len(rank) for rank in read] == ([13] * 3 if even else [13, 14, 14])


def test_the_rank_is_that_of_torch_distributed(made: Made, tmp_path):
    rows = LabelDataset(made.folder, ["seg"]).iterable()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        spawned = pickle.loads(pickle.dumps(rows))
        assert spawned._given == (0, 1) and ids(spawned) == NAMES
    finally:
        torch.distributed.destroy_process_group()


def test_order_depends_on_the_seed_and_the_epoch_alone(made: Made):
    labels = LabelDataset(made.folder, ["seg"])
    first = ids(labels.iterable(True, seed=1))
    assert first == ids(labels.iterable(True, seed=1)) and sorted(first) == NAMES and first != NAMES
    assert first != ids(labels.iterable(True, seed=2))
    later = labels.iterable(True, seed=1)
    later.set_epoch(5)
    assert sorted(ids(later)) == NAMES and ids(later) != first


def test_files_that_are_merged_while_they_are_read(tmp_path):
    """The rows of the data set stay those that there were, from whatever file."""
    rows = [{**error_row(f"{number:02d}.jpg", None, None), "width": 4, "height": 3} for number in range(40)]
    output = write_rows(tmp_path / "out", rows[:1])
    (tmp_path / "out" / "data" / "s000000-00000000-00000001-end.parquet").unlink()
    parts = [UnitName(0, 0, 20, False), UnitName(0, 20, 40, True)]
    for part in parts:
        placed = [{**rows[index], "shard": 0, "index": index} for index in range(part.start, part.stop)]
        write_file(tmp_path / "out", part, placed)
    labels = LabelDataset(output.uri, columns=["uri"])
    reading = iter(labels.iterable())
    begun = [next(reading)["image_id"] for _ in range(3)]
    assert labels[25]["image_id"] == "25.jpg"
    merge_shard(output, parts)
    assert begun + ids(reading) == [f"{number:02d}.jpg" for number in range(40)]
    assert labels[39]["image_id"] == "39.jpg"
    for file in (tmp_path / "out" / "data").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="no file has images"):
        LabelDataset.__getitem__(pickle.loads(pickle.dumps(labels)), 0)


def test_only_the_row_group_of_a_row_is_read(made: Made, monkeypatch):
    asked: list[list[int]] = []
    real = pq.ParquetFile.read_row_groups

    def read(file: pq.ParquetFile, groups: list[int], **options: object) -> pa.Table:
        asked.append(groups)
        return real(file, groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", read)
    labels = LabelDataset(made.folder, ["seg"])
    asked.clear()
    labels[0], labels[15], labels[16], labels[40]
    assert asked == [[0], [1], [1]]


def test_what_is_wrong_is_said(made: Made, tmp_path):
    with pytest.raises(ConfigError, match=r"columns: no column 'segg'; the columns are image_id, "):
        LabelDataset(made.folder, ["segg"])
    with pytest.raises(ConfigError, match="where: 'width >' is no SQL"):
        LabelDataset(made.folder, where="width >")
    with pytest.raises(OutputError, match=r"no row of .* meets the condition"):
        LabelDataset(made.folder, where="width > 9999")
    with pytest.raises(OutputError, match="holds no labels"):
        LabelDataset(tmp_path)
    with pytest.raises(ValueError, match=r"size=512: should be \(height, width\)"):
        LabelDataset(made.folder, size=512)
    labels = LabelDataset(made.folder)
    with pytest.raises(TypeError, match="give both rank and world_size"):
        labels.iterable(rank=0)
    with pytest.raises(ValueError, match="rank=2, world_size=2: ranks are counted from 0"):
        labels.iterable(rank=2, world_size=2)
    with pytest.raises(ValueError, match="seed=-1: should be 0 or more"):
        labels.iterable(shuffle=True, seed=-1)
    output = write_rows(tmp_path / "bad", [error_row("x.jpg")])
    with pytest.raises(OutputError, match=r"no row of .* has labels: all are error rows"):
        LabelDataset(output.uri)


def test_a_photo_that_is_gone_is_named(made: Made, tmp_path):
    import shutil

    copy = shutil.copytree(made.folder.parent, tmp_path / "copy")
    (copy / "out" / "plan").joinpath("entries-000000.parquet").unlink()
    from tests.export.test_huggingface import plan_of

    every = [*NAMES[:20], "bad.jpg", *NAMES[20:], "worse.jpg"]
    plan_of(Folder(str(copy / "out")), copy / "photos", every)
    (copy / "photos" / "01.png").unlink()
    for name, shape in (("02.png", (9, 9, 3)), ("04.png", (120, 160, 3))):  # the photo is 160 high and 120 wide
        (copy / "photos" / name).write_bytes(cv2.imencode(".png", np.zeros(shape, np.uint8))[1].tobytes())
    labels = LabelDataset(copy / "out", ["seg"], photos=True)
    assert labels[0]["image_id"] == "00.png"
    with pytest.raises(InputError, match=r"01.png: its photo cannot be read again: no such file"):
        labels[1]
    with pytest.raises(InputError, match=r"02.png: its photo is another one than was labelled; leave it out"):
        labels[2]
    with pytest.raises(InputError, match=r"04.png: its photo is another one than was labelled"):
        labels[4]


def test_columns_that_are_null_can_be_batched():
    from sapiens_ray.training.items import _plain

    assert math.isnan(_plain(None, pa.float32())) and _plain(None, pa.string()) is None
    assert torch.isnan(_plain([1.0, None], pa.list_(pa.float32()))).tolist() == [False, True]
    assert torch.equal(_plain([1.5], pa.large_list(pa.float64())), torch.tensor([1.5]))
    assert torch.equal(_plain([1, 2], pa.list_(pa.uint64())), torch.tensor([1, 2]))
    assert _plain([1, None], pa.list_(pa.int64())) == [1, None], "int64 has no NaN"
    assert _plain([2**63], pa.list_(pa.uint64())) == [2**63], "does not fit into int64"


def test_a_buffer_is_weighed_by_the_bytes_of_its_rows():
    from sapiens_ray.torch import _bytes_of

    row = {"image_id": "a.png", "width": 3, "depth": {"data": b"x" * 100, "shape": [1, 2]}, "seg": b"y" * 50}
    assert _bytes_of((row, b"z" * 1000)) == 5 + 8 + 100 + 16 + 50 + 1000


def test_maps_of_persons_are_ids_and_batch(tmp_path):
    rows = [group_row("a.jpg", [20, 120], stored=True), group_row("b.jpg", [], stored=True)]
    write_group(tmp_path / "out", rows, stored=True)
    (stored, _), (small, nobody) = (list(LabelDataset(tmp_path / "out", size=size)) for size in (None, (80, 50)))
    whole = instance_map(rows[0])
    assert stored["persons_instances"].dtype == torch.int32
    assert np.array_equal(stored["persons_instances"].numpy(), whole)
    seen = small["persons_instances"]
    assert np.array_equal(seen.numpy(), cv2.resize(whole, (50, 80), interpolation=cv2.INTER_NEAREST_EXACT))
    assert set(seen.unique().tolist()) == {0, 1, 2}, "nobody stands between two ids"
    assert collate([small, nobody])["persons_instances"].shape == (2, 80, 50)
