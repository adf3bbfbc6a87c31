"""Images at which a worker dies or stops are found, and become rows; their neighbours are labelled."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from sapiens_ray.engine.assemble import make_unit
from sapiens_ray.errors import ImageError, JobError
from sapiens_ray.execution.attempts import DRAW, Guard, Record, Turns, forget, quarantined_images
from sapiens_ray.sources import Encoded
from sapiens_ray.storage import Folder
from sapiens_ray.units import Unit, UnitName, set_column
from tests.conftest import PATIENCE_S
from tests.execution.attempts import Attempts, Died, let_time_run_out

NAME = UnitName(2, 10, 14, False)
FILE = "attempts/s000002-00000010-00000014.seg.json"


@pytest.fixture
def output(tmp_path):
    return Folder(str(tmp_path))


def unit_of(count: int = 4, broken: tuple[int, ...] = ()) -> Unit:
    """Images 10, 11, ... of shard 2; each that is not broken has its index as its input."""
    encoded = [
        Encoded(index, f"image {index}", "", b"x", ImageError("corrupt", "broken before") if index in broken else None)
        for index in range(10, 10 + count)
    ]
    unit = make_unit(encoded, pa.schema([]), shard=2, start=10, last=False)
    widths = [None if image.error else 1 for image in encoded]
    for name in ("width", "height"):
        unit.rows = set_column(unit.rows, name, pa.array(widths, pa.int32()))
    good = [image.index for image in encoded if not image.error]
    unit.inputs = {"small": np.array(good, np.uint8).reshape(-1, 1, 1, 1)}
    return unit


class Work:
    """Labels every good image with its input; does what it is told at an image."""

    def __init__(self, **at: Callable[[], None]) -> None:
        self.calls: list[list[int]] = []  # the good images of each call
        self._at = {int(name.removeprefix("image_")): act for name, act in at.items()}

    def __call__(self, unit: Unit) -> Unit:
        good = [unit.start + position for position in unit.good_rows()]
        self.calls.append(good)
        labels: list[int | None] = [None] * unit.rows.num_rows
        places = {position: place for place, position in enumerate(unit.decoded_rows())}
        for position in unit.good_rows():
            self._at.get(unit.start + position, lambda: None)()
            labels[position] = int(unit.inputs["small"][places[position], 0, 0, 0])
        rows = set_column(unit.rows, "label", pa.array(labels, pa.int64()))
        return Unit(unit.shard, unit.start, unit.last, rows, unit.inputs, {"work": 1.0}, ("a note",))


def die() -> None:
    raise Died


def labels(unit: Unit) -> list[int | None]:
    found: list[int | None] = unit.rows["label"].to_pylist()
    return found


def known(output: Folder, file: str = FILE) -> dict[str, object]:
    found: dict[str, object] = json.loads(output.read(file))
    return found


def test_a_first_attempt_handles_the_unit_as_a_whole(output, tmp_path):
    counter, work = Attempts(), Work()
    done = Guard(output, counter, 600, 0).run(unit_of(broken=(11,)), "seg", work, labels)
    assert done == [10, None, 12, 13] and work.calls == [[10, 12, 13]]
    assert counter.ended == [f"{NAME.file}:seg"]
    assert list(tmp_path.iterdir()) == [], "nothing is noted where nobody died"


def test_after_an_unfinished_attempt_images_are_handled_one_by_one(output):
    notes: dict[int, object] = {}
    seen: list[Unit] = []
    work = Work()

    def noted(unit: Unit) -> Unit:
        notes[unit.start] = known(output)["at"]
        return work(unit)

    def then(unit: Unit) -> list[int | None]:
        seen.append(unit)
        return labels(unit)

    done = Guard(output, Attempts(1), 600, 0).run(unit_of(broken=(11,)), "seg", noted, then)
    assert done == [10, None, 12, 13] and work.calls == [[10], [], [12], [13]]
    assert notes.pop(11) != 11, "nothing is tried with an error row"
    assert notes == {10: 10, 12: 12, 13: 13}, "each image is noted before it is tried"
    assert known(output) == {"at": None, "deaths": {}, "condemned": {}}
    (whole,) = seen
    assert whole.name == NAME and whole.inputs["small"].flatten().tolist() == [10, 12, 13]
    assert whole.rows["error_kind"].to_pylist() == [None, "corrupt", None, None]
    assert whole.seconds == {"work": 4.0} and whole.notes == ("a note",) * 4


def test_an_image_that_kills_its_worker_becomes_an_error_row(output):
    counter, work = Attempts(), Work(image_12=die)
    guard = Guard(output, counter, 600, 0)
    for _ in range(4):  # as a whole, and three times at the image
        with pytest.raises(Died):
            guard.run(unit_of(), "seg", work, labels)
    done = guard.run(unit_of(), "seg", work, lambda unit: unit)
    assert labels(done) == [10, 11, None, 13]
    assert work.calls == [[10, 11, 12, 13], *[[10], [11], [12]] * 3, [10], [11], [], [13]]
    assert done.rows["error_kind"].to_pylist() == [None, None, "crashed", None]
    why = "seg: the worker died 3 times at this image (a crash, or out of memory)"
    assert done.rows["error"].to_pylist()[2] == why
    assert known(output) == {"at": None, "deaths": {"12": 3}, "condemned": {"12": ["crashed", why]}}
    assert counter.started == {} and len(counter.ended) == 1


def test_two_images_that_kill_their_worker_are_told_apart(output):
    work = Work(image_10=die, image_13=die)
    guard = Guard(output, Attempts(), 600, 0)
    deaths = 0
    while True:
        try:
            done = guard.run(unit_of(), "seg", work, labels)
            break
        except Died:
            deaths += 1
            assert deaths < 10
    assert done == [None, 11, 12, None] and deaths == 7


def test_a_death_between_images_is_no_images_fault(output):
    def then(unit: Unit) -> list[int | None]:
        if guard_deaths:
            guard_deaths.pop()
            raise Died
        return labels(unit)

    guard_deaths, work = [1, 2, 3, 4, 5], Work()
    guard = Guard(output, Attempts(), 600, 0)
    for _ in range(5):
        with pytest.raises(Died):
            guard.run(unit_of(), "seg", work, then)
    assert guard.run(unit_of(), "seg", work, then) == [10, 11, 12, 13]
    assert known(output)["deaths"] == {}


def test_instead_is_done_with_an_image_that_is_quarantined(output):
    Record(output, NAME, DRAW, quarantined={11: ("crashed", "why")}).save()
    work, instead = Work(), Work()
    done = Guard(output, Attempts(1), 600, 0).run(unit_of(), DRAW, work, lambda unit: unit, instead)
    assert labels(done) == [10, 11, 12, 13] and done.rows["error_kind"].null_count == 4
    assert work.calls == [[10], [12], [13]] and instead.calls == [[11]]


def test_a_unit_without_images_is_handled_as_a_whole_every_time(output):
    """What comes later needs the columns that the work adds."""
    work = Work()
    assert Guard(output, Attempts(3), 600, 0).run(unit_of(0), "seg", work, labels) == []
    assert work.calls == [[]]


def test_deaths_at_no_image_in_particular_end_the_job(output):
    most = 20 + 3 * 4
    assert Guard(output, Attempts(most), 600, 0).run(unit_of(), "seg", Work(), labels) == [10, 11, 12, 13]
    with pytest.raises(JobError) as caught:
        Guard(output, Attempts(most + 1), 600, 0).run(unit_of(), "seg", Work(), labels)
    assert f"stage seg died 33 times at unit {NAME.file}, which starts with image 10, but" in str(caught.value)
    with pytest.raises(JobError, match="which starts with nothing"):
        Guard(output, Attempts(21), 600, 0).run(unit_of(0), "seg", Work(), labels)


def test_an_image_that_takes_too_long_is_quarantined_and_ends_the_process(output, killed):

    def hang() -> None:
        let_time_run_out()
        assert killed.wait(PATIENCE_S)
        raise Died

    counter, work = Attempts(1), Work(image_11=hang)
    guard = Guard(output, counter, 1.5e3, 0)
    with pytest.raises(Died):
        guard.run(unit_of(), "seg", work, labels)
    why = "seg: took longer than image_timeout_s = 1500"
    assert known(output) == {"at": None, "deaths": {}, "condemned": {"11": ["timeout", why]}}
    done = guard.run(unit_of(), "seg", work, lambda unit: unit)
    assert labels(done) == [10, None, 12, 13] and work.calls[-4:] == [[10], [], [12], [13]]
    assert done.rows["error"].to_pylist()[1] == why


def test_a_batch_that_takes_too_long_ends_the_process_and_accuses_no_image(output, killed, tmp_path):

    def hang(unit: Unit) -> Unit:
        let_time_run_out()
        assert killed.wait(PATIENCE_S)
        return unit

    Guard(output, Attempts(), 600, 0).run(unit_of(), "seg", hang, lambda unit: None)
    assert list(tmp_path.iterdir()) == []


def test_records_keep_the_key_of_earlier_versions(output):
    text = '{"at": 12, "deaths": {"12": 2}, "condemned": {"10": ["timeout", "seg: took longer"]}}'
    output.write(FILE, text.encode())
    record = Record.load(output, NAME, "seg")
    assert (record.at, record.deaths, record.quarantined) == (12, {12: 2}, {10: ("timeout", "seg: took longer")})
    record.save()
    assert output.read(FILE).decode() == text and output.files("attempts") == [FILE.removeprefix("attempts/")]


def test_a_unit_without_a_record_has_an_empty_one(output):
    record = Record.load(output, NAME, "seg")
    assert record == Record(output, NAME, "seg") and record.file == FILE
    record.count_death()
    assert record == Record(output, NAME, "seg"), "nothing was tried when the worker died"


def test_three_deaths_at_an_image_quarantine_it(output):
    record = Record(output, NAME, "seg")
    for count, image in enumerate((11, 12, 11, 11)):
        assert record.quarantined == {}, count
        record.at = image
        record.count_death()
        assert record.at is None
    assert record.deaths == {11: 3, 12: 1} and list(record.quarantined) == [11]


def test_what_earlier_runs_learned_is_known_by_shard(output):
    Record(output, NAME, "prepare", quarantined={11: ("crashed", "a")}).save()
    Record(output, NAME, "seg", quarantined={12: ("timeout", "b")}).save()
    Record(output, NAME, DRAW, quarantined={13: ("crashed", "c")}).save()
    Record(output, UnitName(5, 0, 4, True), "seg", quarantined={0: ("crashed", "d")}).save()
    assert quarantined_images(output) == {2: {11: ("crashed", "a"), 12: ("timeout", "b")}, 5: {0: ("crashed", "d")}}
    forget(output, 2)
    assert quarantined_images(output) == {5: {0: ("crashed", "d")}} and len(output.files("attempts")) == 1
    forget(output)
    assert quarantined_images(output) == {} and output.files("attempts") == []


def test_calls_share_a_process():
    turns, together = Turns(), threading.Barrier(3, timeout=PATIENCE_S)

    def call() -> None:
        with turns.shared():
            together.wait()

    threads = [threading.Thread(target=call, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    with turns.shared():
        together.wait()  # all three are inside at once, or this fails
    for thread in threads:
        thread.join(PATIENCE_S)
    with turns.alone():
        pass


def test_a_call_that_wants_to_be_alone_waits_for_others_and_goes_before_new_ones():
    turns, order, leave = Turns(), [], threading.Event()

    def alone() -> None:
        with turns.alone():
            order.append(("alone", leave.is_set()))

    def shared() -> None:
        with turns.shared():
            order.append(("shared", leave.is_set()))

    def first() -> None:
        with turns.shared():
            threads[1].start()
            while not turns._waiting:
                time.sleep(0.001)
            threads[2].start()
            leave.set()

    threads = [threading.Thread(target=call, daemon=True) for call in (first, alone, shared)]
    threads[0].start()
    for thread in threads:
        while thread.ident is None:
            time.sleep(0.001)
        thread.join(PATIENCE_S)
    assert order == [("alone", True), ("shared", True)]


@pytest.mark.parametrize("kind", ["alone", "shared"])
def test_an_error_inside_leaves_the_turn(kind):
    turns = Turns()
    for _ in range(2):
        with pytest.raises(ValueError, match="inside"), getattr(turns, kind)():
            raise ValueError("inside")
    with turns.alone():
        pass
    with turns.shared(), turns.shared():
        pass
