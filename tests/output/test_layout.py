"""Where everything is in an output folder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.output import layout
from sapiens_ray.storage import Folder
from sapiens_ray.units import UnitName

UNIT = UnitName(3, 64, 128, True)


@pytest.fixture
def output(tmp_path):
    return Folder(str(tmp_path))


def test_names_of_files():
    assert layout.data_file(UNIT) == "data/s000003-00000064-00000128-end.parquet"
    assert layout.picture_file("seg/a.jpg") == "visualizations/seg/a.jpg"
    assert layout.entries_file(7) == "plan/entries-000007.parquet"
    assert layout.attempts_file(UNIT, "seg") == "attempts/s000003-00000064-00000128-end.seg.json"
    written = [layout.data_file(UNIT), layout.picture_file("x"), layout.entries_file(0), layout.PLAN_FILE]
    for name in (*written, layout.attempts_file(UNIT, "draw")):
        assert any(f"{name}/".startswith(part) for part in layout.PARTS)


@given(st.integers(0, 10**7), st.integers(0, 10**9), st.integers(0, 4096), st.booleans(), st.sampled_from("ab_0"))
def test_a_record_names_its_unit_and_stage(shard, start, length, last, letter):
    class Listing:
        def files(self, folder):
            assert folder == "attempts"
            return [file.removeprefix("attempts/")]

    unit = UnitName(shard, start, start + length, last)
    file = layout.attempts_file(unit, f"stage{letter}")
    assert layout.attempts_of(Listing()) == [(file, unit, f"stage{letter}")]


def test_listings_leave_out_what_is_no_file_of_ours(output):
    assert (layout.data_units(output), layout.entries_files(output), layout.attempts_of(output)) == ([], [], [])
    for name in (
        layout.data_file(UNIT), "data/.tmp-1", "data/notes.txt", "data/s1.parquet",
        layout.entries_file(0), "plan/.tmp-1", "plan/other.parquet",
        layout.attempts_file(UNIT, "seg"), layout.attempts_file(UNIT, "draw"), "attempts/notes.seg.json",
    ):  # fmt: skip
        output.write(name, b"")
    assert layout.data_units(output) == [UNIT]
    assert layout.entries_files(output) == ["plan/entries-000000.parquet"]
    assert [(unit, stage) for _, unit, stage in layout.attempts_of(output)] == [(UNIT, "draw"), (UNIT, "seg")]
    assert all(output.exists(file) for file, _, _ in layout.attempts_of(output))


@pytest.mark.parametrize("pictures", [True, False])
def test_unfinished_files_are_swept(output, tmp_path, pictures):
    kept = ["job.yaml", "data/a", "visualizations/seg/a.jpg", "elsewhere/.tmp-1", "elsewhere/deep/.tmp-2"]
    unfinished = [".tmp-0", "data/.tmp-1", "plan/.tmp-2", "attempts/.tmp-3"]
    of_pictures = ["visualizations/.tmp-4", "visualizations/seg/deep/.tmp-5"]
    for name in (*kept, *unfinished, *of_pictures):
        output.write(name, b"")
    layout.sweep(output, pictures)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*kept, *(() if pictures else of_pictures)}


@pytest.mark.parametrize(
    ("file", "expected"), [("job.yaml", True), ("plan.parquet", True), ("data/a", False), ("summary.json", False)]
)
def test_results_are_told_by_the_job_and_the_plan(output, file, expected):
    assert not layout.has_results(output)
    output.write(file, b"")
    assert layout.has_results(output) == expected
