"""`export --format huggingface`, read back by `datasets` and `huggingface_hub`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard

from sapiens_ray.export.huggingface import shards
from sapiens_ray.output.schema import output_schema
from sapiens_ray.planning.plan import EntriesFile, Plan, Shard, save_plan
from sapiens_ray.sources import Entry
from sapiens_ray.storage import Folder
from tests.export.groups import instance_map, write_group
from tests.export.groups import row as group_row
from tests.reporting.made import error_row, labelled_photo, write_rows

PHOTOS = 6
PNG = cv2.imencode(".png", np.zeros((2, 3, 3), np.uint8))[1].tobytes()


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def write(folder: Path, rows: int = PHOTOS) -> Path:
    """An output over a folder of photos, with a plan that names them, in two shards; the last row is an error row."""
    made = [labelled_photo(folder / "photos", f"{seed}.png", seed) for seed in range(rows)]
    made[2]["persons"] = []
    made[3]["seg_confidence"] = None
    output = write_rows(folder / "out", [*made, error_row("bad.jpg")], files=2)
    plan_of(output, folder / "photos", [row["image_id"] for row in made] + ["bad.jpg"])
    return folder / "out"


def plan_of(output: Folder, photos: Path, names: list[str]) -> None:
    """Write a plan of two shards of a folder, with its entries."""
    save_plan(Plan(entries_of(output, str(photos), names), 64, pa.schema([])), output)


def entries_of(output: Folder, photos: str, names: list[str]) -> list[Shard]:
    """Write the entries of two shards of a folder. Returns the shards."""
    entries = EntriesFile(0)
    found = []
    for number, part in enumerate(np.array_split(np.array(names), 2)):
        group = entries.add([Entry(f"{photos}/{name}", str(name)) for name in part])
        place = f"{photos}#{number}"
        found.append(Shard(number, "images", photos, place, images=len(part), entries=entries.name, group=group))
    entries.publish(output)
    return found


def load(folder: Path, cache: Path):
    from datasets import load_dataset

    return load_dataset(str(folder), split="train", cache_dir=str(cache))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("made"))


def export(command, output: Path, to: Path, *options: object):
    return command("export", output, "--format", "huggingface", "--to", to, *options)


def test_the_dataset_holds_every_label(output, command, tmp_path):
    done = export(command, output, tmp_path / "to", "--photos")
    assert done.code == 0, done.text
    assert done.out.startswith(f"{PHOTOS} images exported, 1 error row skipped\n")
    assert done.err == "the licence of the models is not known: README.md says so; --license NAME sets it\n"
    found = load(tmp_path / "to", tmp_path / "cache")
    assert found.num_rows == PHOTOS
    rows = [labelled_photo(tmp_path / "again", f"{seed}.png", seed) for seed in range(PHOTOS)]
    rows[2]["persons"] = []
    rows[3]["seg_confidence"] = None
    for row, item in zip(rows, found, strict=True):
        assert item["image_id"] == row["image_id"] and (item["width"], item["height"]) == (120, 160)
        assert item["uri"] is None, "a path on this machine"
        photo = cv2.imread(str(tmp_path / "again" / row["image_id"]))
        assert np.array_equal(np.array(item["image"]), photo[:, :, ::-1])
        assert item["seg"].mode == "L"
        assert np.array_equal(np.array(item["seg"]), cv2.imdecode(np.frombuffer(row["seg"], np.uint8), -1))
        assert item["seg_classes"] == [3, 21]
        assert np.array_equal(np.load(io.BytesIO(item["depth"])), np.load(io.BytesIO(row["depth"])))
        assert item["normal"] == row["normal"]
        assert len(item["persons"]) == len(row["persons"])
        for person, expected in zip(item["persons"], row["persons"], strict=True):
            assert np.allclose(person["keypoints"], expected["keypoints"], rtol=1e-6)
            assert person["box"] == expected["box"] and np.allclose(person["scores"], expected["scores"])
    assert found[3]["seg_confidence"] is None and found[2]["persons"] == []


def test_the_features_are_typed_and_said_alike_in_the_card_and_in_the_files(output, command, tmp_path):
    from datasets import ClassLabel, Features, Image, List

    export(command, output, tmp_path / "to")
    (file,) = (tmp_path / "to" / "data").iterdir()
    assert file.name == "train-00000-of-00001.parquet"
    in_file = Features.from_arrow_schema(pq.read_schema(file))
    head = yaml.safe_load((tmp_path / "to" / "README.md").read_text().split("---\n")[1])
    assert Features._from_yaml_list(head["dataset_info"]["features"]) == in_file
    assert in_file["seg"] == Image()
    assert isinstance(in_file["seg_classes"], List) and isinstance(in_file["seg_classes"].feature, ClassLabel)
    assert in_file["seg_classes"].feature.int2str(21) == "Torso"
    assert set(in_file["persons"].feature) == {"box", "box_score", "keypoints", "scores", "score", "visible"}
    assert not {"shard", "index", "error", "error_kind", "visualization", "image"} & set(in_file)


def test_the_card_is_valid_and_tells_what_was_made_how(output, command, tmp_path):
    export(command, output, tmp_path / "to")
    card = DatasetCard.load(tmp_path / "to" / "README.md")
    assert card.data.license == "unknown" and card.data.annotations_creators == ["machine-generated"]
    assert card.data.task_categories == ["image-segmentation", "depth-estimation", "keypoint-detection"]
    assert card.data.size_categories == ["n<1K"] and card.data.pretty_name == "made"
    assert card.data.configs == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]
    (split,) = card.data.dataset_info["splits"]
    assert (split["name"], split["num_examples"]) == ("train", PHOTOS)
    for said in (
        f"Labels of {PHOTOS} photos of people",
        "| `seg` | `seg.pt2` | float32 | `" + "0" * 64 + "` | not known |",
        "| `corrupt` | 1 |",
        "| 21 | Torso | #",
        "| 0 | nose |",
        "larger is farther",
        "## Limits, and people in photos",
        "checkpoint: '.../seg.pt2'",
    ):
        assert said in card.content, said
    assert "/models/" not in card.content and str(output) not in card.content, "folders of this machine"


@pytest.mark.parametrize(
    ("checkpoints", "options", "licence"),
    [
        (["seg-1b", "depth-0.3b", "/x/sapiens_1b_normal_render_people_epoch_115_torchscript.pt2", "pose17-1b"], (),
         "cc-by-nc-4.0"),
        (["seg-1b", "depth-1b", "normal-1b", "/own/pose.pth"], (), "unknown"),
        (["/own/a.pth", "depth-1b", "normal-1b", "pose17-1b"], ("--license", "cc-by-4.0"), "cc-by-4.0"),
    ],
)  # fmt: skip
def test_the_licence_is_that_of_the_models(output, command, tmp_path, checkpoints, options, licence):
    copy = tmp_path / "out"
    copy.mkdir()
    (copy / "data").symlink_to(output / "data")
    record = yaml.safe_load((output / "job.yaml").read_text())
    for task, model, checkpoint in zip(record["job"]["tasks"], record["models"], checkpoints, strict=True):
        task["checkpoint"] = checkpoint
        model["checkpoint"] = f"/cache/{checkpoint}.pt2" if "/" not in checkpoint else checkpoint
    record["job"]["name"] = "a | `b` <b>"
    (copy / "job.yaml").write_text(yaml.safe_dump(record))
    done = export(command, copy, tmp_path / "to", *options)
    assert done.code == 0, done.text
    assert ("licence of the models is not known" in done.err) == (licence == "unknown")
    card = DatasetCard.load(tmp_path / "to" / "README.md")
    assert card.data.license == licence
    assert card.content.count("| CC-BY-NC 4.0 |") == sum("own" not in one for one in checkpoints)
    assert "\n# a \\| \\`b\\` &lt;b>\n" in card.content


def test_only_chosen_rows(output, command, tmp_path):
    done = export(command, output, tmp_path / "to", "--where", "len(persons) = 0", "--json")
    assert json.loads(done.out)["images"] == 1, done.text
    assert load(tmp_path / "to", tmp_path / "cache")["image_id"][:] == ["2.png"]


def test_large_datasets_have_several_files_and_an_earlier_export_is_replaced(output, command, tmp_path, monkeypatch):
    export(command, output, tmp_path / "to")
    monkeypatch.setattr(shards, "SHARD_BYTES", 40_000)
    monkeypatch.setattr(shards, "GROUP_ROWS", 2)
    assert export(command, output, tmp_path / "to").code == 0
    files = sorted(path.name for path in (tmp_path / "to" / "data").iterdir())
    assert files == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    metadata = [pq.read_metadata(tmp_path / "to" / "data" / name) for name in files]
    assert [one.num_rows for one in metadata] == [2, 2, 2]
    found = load(tmp_path / "to", tmp_path / "cache")
    assert found["image_id"][:] == [f"{number}.png" for number in range(PHOTOS)]


def test_another_dataset_is_not_replaced(output, command, tmp_path):
    (tmp_path / "to" / "data").mkdir(parents=True)
    (tmp_path / "to" / "data" / "train-00000-of-00001.parquet").write_text("theirs")
    done = export(command, output, tmp_path / "to")
    assert done.code == 2 and "holds data files of a dataset without README.md" in done.err
    (tmp_path / "to" / "README.md").write_text("theirs")
    done = export(command, output, tmp_path / "to")
    assert done.code == 2 and "README.md was not written by this export; name another folder" in done.err
    assert (tmp_path / "to" / "README.md").read_text() == "theirs"


def test_an_edited_card_is_not_lost_and_a_damaged_mark_is_no_crash(output, command, tmp_path):
    card = tmp_path / "to" / "README.md"
    assert export(command, output, tmp_path / "to").code == 0
    assert export(command, output, tmp_path / "to").code == 0, "its own card is replaced"
    card.write_text(card.read_text() + "\nMine.\n")
    done = export(command, output, tmp_path / "to", "--license", "cc0-1.0")
    assert (
        done.code == 2 and "README.md was edited; keep your text, and delete README.md and data/, or name" in done.err
    )
    assert card.read_text().endswith("Mine.\n")
    for mark in ("{edited}", '{"x": 1}', "{}"):
        card.write_text(f"<!-- sapiens-ray export --format huggingface {mark} -->")
        done = export(command, output, tmp_path / "to")
        assert done.code == 2 and "README.md was not written by this export; name another folder" in done.err, done.text


def test_photos_that_are_gone_or_changed_are_null(command, tmp_path):
    output = write(tmp_path / "made", 4)
    (tmp_path / "made" / "photos" / "1.png").unlink()
    other = labelled_photo(tmp_path / "other", "x.png", 9)
    (tmp_path / "made" / "photos" / "2.png").write_bytes(
        cv2.imencode(".png", cv2.imread(other["uri"])[:50])[1].tobytes()
    )
    done = export(command, output, tmp_path / "to", "--photos")
    assert "2 photos could not be read again, or changed since, and so null: such as 1.png\n" in done.err, done.text
    images = load(tmp_path / "to", tmp_path / "cache")["image"][:]
    assert [one is None for one in images] == [False, True, True, False]


def test_columns_of_the_input_keep_their_types_or_are_left_out_by_name(output, command, tmp_path):
    extra = pa.schema([
        ("caption", pa.large_string()), ("taken", pa.timestamp("us", tz="UTC")), ("price", pa.decimal128(9, 2)),
        ("tags", pa.list_(pa.string())), ("camera", pa.struct([("iso", pa.int16()), ("lens", pa.string())])),
        ("kind", pa.dictionary(pa.int8(), pa.string())), ("odd", pa.map_(pa.string(), pa.int32())),
        ("half", pa.float16()), ("nothing", pa.null()), ("image", pa.string()), ("photo", pa.string()),
        ("thumb", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ])  # fmt: skip
    schema = output_schema([], extra, {})
    row = {
        "image_id": "a.jpg", "shard": 0, "index": 0, "uri": "https://host/a.jpg", "width": 4, "height": 3,
        "caption": "x", "tags": ["b"], "camera": {"iso": 100, "lens": "50"}, "kind": "k", "odd": [("a", 1)],
        "half": np.float16(0.5), "image": "i", "photo": "p", "thumb": {"bytes": PNG, "path": "t.png"},
    }  # fmt: skip
    (tmp_path / "out" / "data").mkdir(parents=True)
    uris = [f"{place}{tmp_path}/a.jpg" for place in ("file://", "local://", "", "zip://a.jpg::", "zip://a::file://")]
    rows = [row, *({**row, "index": index, "uri": uri} for index, uri in enumerate(uris, 1))]
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table, tmp_path / "out" / "data" / "s000000-00000000-00000006-end.parquet")
    plan_of(Folder(str(tmp_path / "out")), tmp_path, ["a.jpg"] * 6)
    (tmp_path / "out" / "job.yaml").write_bytes((output / "job.yaml").read_bytes())
    done = export(command, tmp_path / "out", tmp_path / "to", "--photos")
    assert done.code == 0, done.text
    assert "odd left out: datasets has no feature for map<string, int32" in done.err
    found = load(tmp_path / "to", tmp_path / "cache")
    assert found["uri"][:] == ["https://host/a.jpg", *[None] * 5], "paths on this machine"
    assert (found[0]["image"], found[0]["photo"], found[0]["photo_2"]) == ("i", "p", None)
    assert found[0]["thumb"].size == (3, 2)
    card = (tmp_path / "to" / "README.md").read_text()
    assert "| `photo_2` | image | the original photo;" in card and card.count("the original photo;") == 1
    assert found[0]["camera"] == {"iso": 100, "lens": "50"}
    assert found[0]["kind"] == "k" and found[0]["tags"] == ["b"] and found[0]["half"] == 0.5
    assert str(found.features["taken"]) == "Value('timestamp[us, tz=UTC]')"
    assert found.features["price"].dtype == "decimal128(9, 2)" and found[0]["price"] is None


def test_what_is_wrong_is_one_line(output, command, tmp_path):
    for options, said in (
        (("--license", "CC BY"), "--license CC BY: should be an identifier of the hub, such as cc-by-nc-4.0"),
        (("--push", "me"), "--push me: should be user/name or organisation/name"),
        (("--private",), "--private says how --push makes a dataset; give --push user/name as well"),
    ):
        done = export(command, output, tmp_path / "to", *options)
        assert done.code == 2 and done.err.startswith(f"sapiens-ray: {said}") and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "to").exists()


def test_maps_of_persons_are_images(command, tmp_path):
    rows = [group_row("a.jpg", [20, 120], stored=True)]
    write_group(tmp_path / "out", rows, stored=True)
    done = export(command, tmp_path / "out", tmp_path / "to")
    assert done.code == 0, done.text
    (row,) = load(tmp_path / "to", tmp_path / "cache")
    assert np.array_equal(np.array(row["persons_instances"]), instance_map(rows[0]))
    card = (tmp_path / "to" / "README.md").read_text()
    assert "row['persons_instances']  # a PIL image: number of the person, 0 for nobody" in card
    assert "np.load(io.BytesIO(row['persons_instances']))" not in card
