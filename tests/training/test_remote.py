"""Labels and photos on S3: data sets of PyTorch and the Hugging Face dataset."""

from __future__ import annotations

import io
import multiprocessing

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from sapiens_ray.export.huggingface import shards
from sapiens_ray.planning.plan import load_plan, save_plan
from sapiens_ray.storage import Folder, forks
from sapiens_ray.torch import LabelDataset
from tests.export.test_huggingface import entries_of
from tests.s3_server import S3, s3_server
from tests.training.conftest import ROWS, Made
from tests.training.test_torch import NAMES

LABELS = "s3://training/labels"


@pytest.fixture(scope="module")
def s3(made: Made):
    """The made output and its photos on S3."""
    with s3_server() as s3:
        direct = s3.direct
        direct.mkdir("training")
        direct.put(str(made.photos), "training/photos", recursive=True)
        direct.put(str(made.folder), "training/labels", recursive=True)
        output = Folder(LABELS, s3.options)
        plan = load_plan(output)
        names = [*NAMES[:20], "bad.jpg", *NAMES[20:], "worse.jpg"]
        plan.shards = entries_of(output, "s3://training/photos", names)
        save_plan(plan, output)
        yield s3


def test_forked_workers_read_rows_and_photos(made: Made, s3: S3):
    labels = LabelDataset(LABELS, ["seg"], photos=True, storage_options=s3.options)
    local = LabelDataset(made.folder, ["seg"], photos=True)
    assert labels[25]["image_id"] == NAMES[25]  # this process has a file and connections open
    loader = DataLoader(labels.iterable(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    found = {item["image_id"]: item for item in loader}
    assert sorted(found) == NAMES
    for number in (0, 20, ROWS - 1):
        assert torch.equal(found[NAMES[number]]["photo"], local[number]["photo"])
        assert torch.equal(found[NAMES[number]]["seg"], local[number]["seg"])


def inherited() -> int:
    return len(forks._inherited)


def test_a_forked_process_keeps_the_connections_of_its_parent(s3: S3):
    """Else it would close them, and the next request of this process would wait for its time-out."""
    labels = LabelDataset(LABELS, ["seg"], storage_options=s3.options)
    assert labels[0]["image_id"] == NAMES[0]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(inherited) >= 1
    assert inherited() == 0


def test_the_dataset_on_s3_is_that_on_a_disk(made: Made, s3: S3, command, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 300_000)
    monkeypatch.setattr(shards, "GROUP_ROWS", 10)
    options = [part for key, value in s3.options.items() for part in ("--storage-option", f"{key}={value}")]
    there = "s3://training/dataset"
    local = command("export", made.folder, "--format", "huggingface", "--to", tmp_path / "to", "--photos")
    done = command("export", LABELS, "--format", "huggingface", "--to", there, "--photos", *options)
    assert (local.code, done.code) == (0, 0), done.text
    direct = s3.direct
    names = sorted(path.rpartition("/")[2] for path in direct.ls("training/dataset/data"))
    assert names == sorted(path.name for path in (tmp_path / "to" / "data").iterdir()) and len(names) > 1
    for name in names:
        remote = pq.read_table(io.BytesIO(direct.cat_file(f"training/dataset/data/{name}")))
        assert remote.drop_columns(["uri"]).equals(pq.read_table(tmp_path / "to" / "data" / name).drop_columns(["uri"]))
    card = direct.cat_file("training/dataset/README.md").decode()
    split = yaml.safe_load(card.split("---\n")[1])["dataset_info"]["splits"][0]
    assert split["num_examples"] == ROWS
    done = command("export", LABELS, "--format", "huggingface", "--to", there, "--push", "me/people", *options)
    assert done.code == 2 and "--push uploads from a folder on this machine; name a local one" in done.err
