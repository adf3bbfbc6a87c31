"""Rows joined by id: against dictionaries, and rows read by their place in any order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.comparing.cells import Cells
from sapiens_ray.comparing.join import FailedImage, join
from sapiens_ray.comparing.rows import Ids, rows_at
from sapiens_ray.errors import OutputError
from sapiens_ray.output.reading import chosen_rows
from sapiens_ray.storage import Folder
from tests.evaluation.labelled import png, write_labels

CELL = png(np.zeros((6, 8), np.uint8))


def ids_of(rows: list[tuple[str, str | None]]) -> Ids:
    kinds = pa.array([kind for _, kind in rows], pa.string()).dictionary_encode()
    places = np.arange(len(rows), dtype=np.int32)
    failed = np.array([kind is not None for _, kind in rows], bool)
    return Ids(pa.array([name for name, _ in rows], pa.large_string()), places, places, failed, kinds)


rows = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from([None, None, "corrupt"])), max_size=10)


@given(rows, rows)
def test_a_join_is_that_of_dictionaries(of_a, of_b):
    found = join(ids_of(of_a), ids_of(of_b))
    first_a, first_b = ({name: at for at, (name, _) in reversed([*enumerate(of)])} for of in (of_a, of_b))
    both = sorted((first_a[name], first_b[name]) for name in first_a if name in first_b)
    good = [(one, other) for one, other in both if of_a[one][1] is None and of_b[other][1] is None]
    assert list(zip(found.a.tolist(), found.b.tolist(), strict=True)) == good
    kinds = [(of_a[one][1], of_b[other][1]) for one, other in both]
    counts = found.counts
    assert (counts.rows_in_a, counts.rows_in_b, counts.in_both) == (len(of_a), len(of_b), len(both))
    assert counts.only_in_a == len(first_a.keys() - first_b.keys())
    assert counts.only_in_b == len(first_b.keys() - first_a.keys())
    assert set(counts.only_in_b_examples) <= first_b.keys() - first_a.keys()
    assert (counts.error_in_a, counts.error_in_b, counts.error_in_both) == (
        kinds.count(("corrupt", None)), kinds.count((None, "corrupt")), kinds.count(("corrupt", "corrupt")),
    )  # fmt: skip
    assert (counts.repeated_in_a, counts.repeated_in_b) == (len(of_a) - len(first_a), len(of_b) - len(first_b))
    assert found.failed == [
        FailedImage(of_a[one][0], of_a[one][1], of_b[other][1]) for one, other in both if (one, other) not in good
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    """100 rows in files of 40, 40 and 20; those of the first file in row groups of 7."""
    path = tmp_path_factory.mktemp("output")
    rows = [{"image_id": f"{number:03}.jpg", "width": number + 1, "seg": CELL} for number in range(100)]
    output = write_labels(path, [{"task": "seg"}], rows, unit_size=40)
    first = min((path / "data").iterdir())
    pq.write_table(pq.read_table(first), first, row_group_size=7)
    return output


def test_ids_are_read_with_their_places(folder):
    found = Ids.read(folder, "A", lambda *told: None)
    assert found.ids.to_pylist() == [f"{number:03}.jpg" for number in range(100)]
    assert found.indices.tolist() == [*range(100)] and not found.shards.any() and not found.failed.any()
    some = Ids.read(chosen_rows(folder, "width between 39 and 42"), "A", lambda *told: None)
    assert some.ids.to_pylist() == ["038.jpg", "039.jpg", "040.jpg", "041.jpg"]
    assert some.indices.tolist() == [38, 39, 40, 41]


@given(wanted=st.lists(st.integers(0, 99), min_size=1, max_size=12))
def test_cells_may_be_read_in_any_order(folder, wanted):
    with Cells(folder, ["image_id", "width", "no_such_column"]) as cells:
        found = [cells.row(0, index) for index in wanted]
    assert found == [{"index": at, "image_id": f"{at:03}.jpg", "width": at + 1} for at in wanted]
    table = rows_at(folder, np.zeros(len(wanted), np.int32), np.array(wanted, np.int32)) if _distinct(wanted) else None
    assert table is None or table["image_id"].to_pylist() == [f"{at:03}.jpg" for at in wanted]


def _distinct(wanted: list[int]) -> bool:
    return len(set(wanted)) == len(wanted)


def test_files_may_be_merged_meanwhile(tmp_path):
    rows = [{"image_id": f"{number}.jpg", "seg": CELL} for number in range(6)]
    output = write_labels(tmp_path, [{"task": "seg"}], rows, unit_size=2)
    parts = sorted((tmp_path / "data").iterdir())
    with Cells(output, ["image_id"]) as cells:
        found = [cells.row(0, 0)]
        whole = pa.concat_tables([pq.read_table(part) for part in parts])
        pq.write_table(whole, tmp_path / "data" / "s000000-00000000-00000006-end.parquet")
        for part in parts:
            part.unlink()
        found += [cells.row(0, index) for index in (5, 2)]
    assert [row["image_id"] for row in found] == ["0.jpg", "5.jpg", "2.jpg"]


def test_a_row_that_is_gone_is_named(folder):
    with Cells(folder, ["image_id"]) as cells, pytest.raises(OutputError, match="the row 100 of shard 0 is gone"):
        cells.row(0, 100)
