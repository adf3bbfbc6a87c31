"""The stages as Ray Data calls them, without Ray: a block in, a block out."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sapiens_ray import storage
from sapiens_ray.engine import engine as engines
from sapiens_ray.engine import watchdog
from sapiens_ray.engine.assemble import DATA, Contents, make_unit
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.prepare import prepare
from sapiens_ray.errors import CheckpointError, JobError
from sapiens_ray.execution import blocks
from sapiens_ray.execution.attempts import DRAW, Guard, Record
from sapiens_ray.execution.blocks import REPORT, WORK, ModelsBlock, PrepareBlock, ReadBlock, WriteBlock
from sapiens_ray.execution.reading import UnitReader
from sapiens_ray.imaging import names
from sapiens_ray.output.schema import output_schema
from sapiens_ray.planning.plan import Shard, ShardWork
from sapiens_ray.sources import Encoded, Reading
from sapiens_ray.storage import Folder
from sapiens_ray.storage import retries as storage_retries
from sapiens_ray.tasks.depth import DepthOptions
from sapiens_ray.tasks.features import FeaturesOptions
from sapiens_ray.tasks.normal import NormalOptions
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.seg import Seg, SegOptions
from sapiens_ray.units import Done, Unit, UnitReport, set_column
from tests.archives import write_tar
from tests.conftest import PATIENCE_S, photo, write_photos
from tests.execution.attempts import Attempts, Died, let_time_run_out
from tests.outputs import certain

pytestmark = pytest.mark.usefixtures("settled_process")

SEG = Seg(SegOptions(task="seg", checkpoint="x"))
EXTRA = pa.schema([("key", pa.string())])


@pytest.fixture
def output(tmp_path):
    return Folder(str(tmp_path / "out"))


def guard(output: Folder, unfinished: int = 0) -> Guard:
    return Guard(output, Attempts(unfinished), 600, 0)


def jpeg(number: int) -> bytes:
    return cv2.imencode(".jpg", photo(24, 32, number))[1].tobytes()


def unit_of(datas: Sequence[bytes]) -> Unit:
    encoded = [Encoded(number, f"{number}.jpg", f"/photos/{number}.jpg", data) for number, data in enumerate(datas)]
    return make_unit(encoded, EXTRA, shard=1)


def same(one: Unit, other: Unit) -> bool:
    return (
        one.rows.equals(other.rows)
        and one.name == other.name
        and one.inputs.keys() == other.inputs.keys()
        and all(np.array_equal(array, other.inputs[kind]) for kind, array in one.inputs.items())
    )


def test_a_block_per_shard_as_work_is_known(monkeypatch):
    pieces = [ShardWork(Shard(number, "images", f"/photos/{number}", str(number))) for number in range(3)]
    monkeypatch.setattr(
        blocks, "work_of", lambda coordinator: (one.to_json() for one in pieces) if coordinator == "it" else None
    )
    made = list(blocks.feed_blocks(pa.table({"start": [0]}), "it"))
    assert [block.column_names for block in made] == [[WORK]] * 3
    assert [ShardWork.from_json(block[WORK][0].as_py()) for block in made] == pieces


def work_block(work: ShardWork) -> pa.Table:
    return pa.table({WORK: [work.to_json()]})


@pytest.fixture
def tar_of_five(tmp_path):
    path = str(tmp_path / "a.tar")
    write_tar(tmp_path / "a.tar", write_photos(tmp_path / "photos", 5))
    return Shard(4, "webdataset", path, "a.tar", *storage.stamp(path))


def reader(output: Folder) -> UnitReader:
    return UnitReader(Reading(), Contents(), output, 2, 1 << 30, EXTRA)


def test_a_shard_is_read_as_units(tar_of_five, output):
    stage = ReadBlock(reader(output), guard(output))
    work = ShardWork(tar_of_five, quarantined={3: ("crashed", "in an earlier run")})
    units = []
    for block in stage(work_block(work)):
        assert not watchdog._watches, "Ray Data may hold the block for as long as it likes"
        units.append(Unit.from_block(block))
    assert [unit.name.file for unit in units] == [
        "s000004-00000000-00000002.parquet", "s000004-00000002-00000004.parquet",
        "s000004-00000004-00000005-end.parquet",
    ]  # fmt: skip
    rows = pa.concat_tables([unit.rows for unit in units]).to_pylist()
    assert [row["image_id"] for row in rows] == [f"a.tar/00{number}.jpg" for number in range(5)]
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["error_kind"] for row in rows] == [None, None, None, "crashed", None]
    assert [row["key"] for row in rows] == [f"00{number}" for number in range(5)]
    assert stage.guard.attempt.ended == ["shard 4"]


def test_what_is_done_of_a_shard_is_not_read(tar_of_five, output):
    work = ShardWork(tar_of_five, Done(((0, 1), (3, 5)), 5))
    units = [Unit.from_block(block) for block in ReadBlock(reader(output), guard(output))(work_block(work))]
    assert [(unit.start, unit.rows["index"].to_pylist()) for unit in units] == [(1, [1]), (2, [2])], (
        "units begin at multiples of their size"
    )


def test_a_shard_that_kills_its_reader_again_and_again_ends_the_job(tar_of_five, output):
    uri = tar_of_five.uri
    assert len(list(ReadBlock(reader(output), guard(output, 5))(work_block(ShardWork(tar_of_five))))) == 3
    with pytest.raises(JobError) as caught:
        next(iter(ReadBlock(reader(output), guard(output, 6))(work_block(ShardWork(tar_of_five)))))
    assert f"the worker died 6 times while it read {uri}: memory ran out, or" in str(caught.value)
    secret = replace(tar_of_five, uri="https://me:S3CRET@host/a.tar?sig=S3CRET")
    with pytest.raises(JobError, match=r"read https://host/a\.tar\?sig=\.\.\.: memory"):
        next(iter(ReadBlock(reader(output), guard(output, 6))(work_block(ShardWork(secret)))))


def test_a_reader_that_never_returns_ends_the_process(output, killed):
    class Stuck:
        def units(self, work: ShardWork) -> Iterator[Unit]:
            yield unit_of([b"x"])
            let_time_run_out()
            assert killed.wait(PATIENCE_S)
            raise Died

    made = ReadBlock(Stuck(), guard(output))(work_block(ShardWork(Shard(0, "images", "/photos", "photos"))))
    assert Unit.from_block(next(made)).start == 0 and not killed.is_set()
    with pytest.raises(Died):
        next(made)


@pytest.mark.parametrize("unfinished", [0, 1])
def test_preparing_is_the_same_in_every_attempt(output, unfinished):
    unit = unit_of([jpeg(0), b"no image", jpeg(1), b""])
    stage = PrepareBlock([SEG], 10_000, 1.0, guard(output, unfinished))
    done = Unit.from_block(stage(unit.to_block()))
    assert same(done, prepare(unit, [SEG], 10_000))
    assert done.rows["error_kind"].to_pylist() == [None, "not_an_image", None, "empty"]
    assert done.rows["width"].to_pylist() == [24, None, 24, None] and done.inputs[SEG.input_kind].shape[0] == 2
    assert stage.guard.attempt.ended == [f"{unit.name.file}:prepare"]


def test_images_with_too_many_pixels_are_not_decoded(output):
    stage = PrepareBlock([SEG], 24 * 32 - 1, 1.0, guard(output))
    done = Unit.from_block(stage(unit_of([jpeg(0)]).to_block()))
    assert done.rows["error_kind"].to_pylist() == ["too_large"] and done.inputs == {}


@pytest.mark.parametrize("unfinished", [0, 1])
@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_only_images_that_get_a_picture_keep_their_bytes(output, fraction, unfinished):
    """What is drawn is the same as if all had them."""
    unit = unit_of([b"no image" if number == 3 else jpeg(number) for number in range(12)])
    done = Unit.from_block(PrepareBlock([SEG], 10_000, fraction, guard(output, unfinished))(unit.to_block()))
    chosen = [names.hash_fraction(f"{number}.jpg") < fraction for number in range(12)]
    assert not fraction or sum(chosen) > 0
    kept = [data is not None for data in done.rows[DATA].to_pylist()]
    assert kept == ([True] * 12 if fraction == 1 else [one and number != 3 for number, one in enumerate(chosen)])
    assert done.rows.drop_columns([DATA]).equals(prepare(unit, [SEG], 10_000).rows.drop_columns([DATA]))


class Labels:
    """Stands for an engine: labels images with their position."""

    fails: Exception | None = None

    def __init__(self, models: Any, host: ModelHost, on_device_error: Any) -> None:
        assert host.device == "cpu"
        if self.fails:
            raise self.fails

    def __call__(self, unit: Unit) -> Unit:
        numbers = [unit.start + position for position in range(unit.rows.num_rows)]
        return replace(unit, rows=set_column(unit.rows, "number", pa.array(numbers, pa.int64())))


@pytest.fixture
def models_block(monkeypatch):
    """Makes an actor whose engine is of this class."""

    def make(guard: Guard, kind: type[Labels] = Labels) -> ModelsBlock:
        monkeypatch.setattr(engines, "Engine", kind)
        return ModelsBlock([], ModelHost("cpu"), guard, "number", object())

    return make


@pytest.mark.parametrize("unfinished", [0, 1])
def test_models_are_called_with_units(output, models_block, unfinished):
    stage = models_block(guard(output, unfinished))
    for _ in range(2):
        done = Unit.from_block(stage(unit_of([b"x", b"y"]).to_block()))
        assert done.rows["number"].to_pylist() == [0, 1]
    assert stage.guard.attempt.ended == ["s000001-00000000-00000002-end.parquet:number"] * 2


def test_a_wrong_checkpoint_ends_the_job_at_the_first_unit(output, models_block):
    class Wrong(Labels):
        fails = CheckpointError("another file")

    class Unlucky(Labels):
        fails = OSError("for a moment")  # which another actor may not meet

    stage = models_block(guard(output), Wrong)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"^another file$"):
            stage(unit_of([b"x"]).to_block())
    with pytest.raises(OSError, match="for a moment"):
        models_block(guard(output), Unlucky)


def test_stages_settle_their_process(output, models_block):
    cv2.setNumThreads(2)
    models_block(Guard(output, Attempts(), 600, 7.5))
    assert cv2.getNumThreads() == 1 and storage_retries._deadline_s == 7.5


def labelled(count: int) -> Unit:
    """A unit with the columns of segmentation; its second image is an error row."""
    unit = prepare(unit_of([b"no image" if number == 1 else jpeg(number) for number in range(count)]), [SEG], 10_000)
    maps = [np.full((32, 24), number, np.uint8) for number in range(count)]
    rows = [{} if number == 1 else SEG.finish([certain(one)], {}) for number, one in enumerate(maps)]
    for field in SEG.fields:
        unit.rows = set_column(unit.rows, field.name, pa.array([row.get(field.name) for row in rows], field.type))
    return unit


RUN = "this run"


def hold(output: Folder, run: str) -> None:
    output.write("lock.json", json.dumps({"run": run, "pid": 1}).encode())


def write_block(output: Folder, unfinished: int = 0, **settings: Any) -> WriteBlock:
    schema = output_schema([SEG], EXTRA, {})
    return WriteBlock([SEG], Visualize(**settings), True, schema, RUN, guard(output, unfinished))


def written(output: Folder) -> tuple[pa.Table, list[str]]:
    """The rows and the pictures of an output with one file."""
    root = Path(output.uri)
    (file,) = output.files("data")
    pictures = sorted(str(path.relative_to(root)) for path in (root / "visualizations").rglob("*") if path.is_file())
    return pq.read_table(root / "data" / file), pictures


@pytest.mark.parametrize("unfinished", [0, 1])
def test_a_unit_is_written_with_its_pictures(output, unfinished):
    hold(output, RUN)
    stage = write_block(output, unfinished)
    block = stage(labelled(4).to_block())
    assert block.column_names == [REPORT] and block.num_rows == 1
    report = UnitReport.from_json(block[REPORT][0].as_py())
    name = "s000001-00000000-00000004-end.parquet"
    assert (report.file, report.rows, report.errors, report.notes) == (name, 4, {"not_an_image": 1}, [])
    (example,) = report.examples["not_an_image"]
    assert example["image_id"] == "1.jpg" and "not a format that OpenCV reads" in example["error"]
    assert {"prepare", "draw", "write"} <= report.seconds.keys()
    table, pictures = written(output)
    assert table.schema == stage.schema.with_metadata(table.schema.metadata)
    assert table["image_id"].to_pylist() == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert table["shard"].to_pylist() == [1] * 4 and table["index"].to_pylist() == [0, 1, 2, 3]
    assert table["seg_classes"].to_pylist() == [[0], None, [2], [3]]
    paths = table["visualization"].to_pylist()
    assert paths[1] is None and sorted(filter(None, paths)) == pictures and len(pictures) == 3
    assert stage.guard.attempt.ended == [f"{name}:draw"]


def test_an_image_that_cannot_be_drawn_has_labels(output):
    hold(output, RUN)
    unit = labelled(4)
    Record(output, unit.name, DRAW, quarantined={2: ("crashed", "why")}).save()
    write_block(output, 1)(unit.to_block())
    table, pictures = written(output)
    assert table["seg_classes"].to_pylist() == [[0], None, [2], [3]]
    assert table["error_kind"].to_pylist() == [None, "not_an_image", None, None]
    assert [path is None for path in table["visualization"].to_pylist()] == [False, True, True, False]
    assert len(pictures) == 2


def test_no_pictures_are_made_where_none_are_wanted(output):
    hold(output, RUN)
    write_block(output, fraction=0)(labelled(2).to_block())
    table, pictures = written(output)
    assert table["visualization"].to_pylist() == [None, None] and pictures == []


def test_a_run_that_lost_its_output_writes_nothing(output):
    hold(output, "another run")
    with pytest.raises(JobError, match="taken over by another run"):
        write_block(output)(labelled(2).to_block())
    assert output.files("data") == [] and not output.exists("visualizations")


def test_a_block_that_is_not_one_unit_is_refused(output):
    block = unit_of([b"x"]).to_block()
    for stage in (PrepareBlock([SEG], 10_000, 1.0, guard(output)), write_block(output)):
        with pytest.raises(ValueError, match="a block must hold one unit, this one holds 2"):
            stage(pa.concat_tables([block, block]))


def test_units_of_a_process_take_turns(output, models_block):
    """An image that is tried alone is alone in its process."""
    alone, tried = threading.Event(), SimpleNamespace(inside=0, most=0)

    class Slow(Labels):
        def __call__(self, unit: Unit) -> Unit:
            tried.inside += 1
            tried.most = max(tried.most, tried.inside)
            if not alone.is_set():
                alone.set()
                other.start()
                other.join(0.05)  # it must not come in meanwhile; waiting longer would find no more
                assert other.is_alive()
            tried.inside -= 1
            return super().__call__(unit)

    first, second = models_block(guard(output, 1), Slow), models_block(guard(output), Slow)
    other = threading.Thread(target=second, args=(unit_of([b"x"]).to_block(),), daemon=True)
    first(unit_of([b"x"]).to_block())
    other.join(PATIENCE_S)
    assert alone.is_set() and not other.is_alive() and tried.most == 1


def test_inputs_that_tasks_share_are_weighed_once():
    options = [
        SegOptions(task="seg", checkpoint="-"), DepthOptions(task="depth", checkpoint="-", mask="none"),
        NormalOptions(task="normal", checkpoint="-", mask="none"), FeaturesOptions(task="features", checkpoint="-"),
    ]  # fmt: skip
    network = options[0].input_bytes
    image = Encoded(0, "a", "a", cv2.imencode(".png", np.zeros((10, 20, 3), np.uint8))[1].tobytes())
    assert image.data is not None
    labels = sum(one.stored_bytes(200) for one in options)
    assert Contents(tasks=tuple(options)).estimated_bytes(image) == len(image.data) + 2 * network + labels
