"""The order in which a unit meets the models of a job."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.engine.models import DetectorModel, TaskModel, in_order, refuse_missing_columns
from sapiens_ray.errors import ConfigError
from sapiens_ray.job.config import Job
from sapiens_ray.models.checkpoint import Checkpoint
from sapiens_ray.tasks.network import RESIZED
from sapiens_ray.units import PHOTO

FILE = Checkpoint("model.pt2", 1, "0" * 64)


@dataclass(frozen=True)
class Stub:
    """A model as `in_order` sees it."""

    column: str
    needs: tuple[str, ...] = ()
    input_kind: str = RESIZED

    @property
    def makes(self) -> tuple[str, ...]:
        return (self.column,)


def order(*models: Stub) -> list[str]:
    return [model.column for model in in_order(models)]


def models_of(*tasks: dict[str, object]) -> list[TaskModel | DetectorModel]:
    """The models of a job, as `prepare_job` lists them."""
    entries = [{"checkpoint": "x", **task} for task in tasks]
    job = Job.parse({"input": {"uri": "x"}, "output": {"uri": "y"}, "tasks": entries})
    return [*(TaskModel.of(task, FILE) for task in job.tasks), *(DetectorModel(one, FILE) for one in job.detectors)]


def test_independent_models_keep_the_order_of_the_job():
    assert order(Stub("c"), Stub("a"), Stub("b")) == ["c", "a", "b"]
    assert order() == []


def test_a_model_comes_after_those_that_make_what_it_needs():
    assert order(Stub("c", ("b",)), Stub("b", ("a",)), Stub("a")) == ["a", "b", "c"]
    assert order(Stub("a", ("a column of the input",)), Stub("b")) == ["a", "b"]


def test_models_that_see_photos_come_first_with_what_they_wait_for():
    photo = Stub("photo", ("maker",), PHOTO)
    assert order(Stub("other"), photo, Stub("maker", ("source",)), Stub("source")) == [
        "source", "maker", "photo", "other",
    ]  # fmt: skip


def test_models_of_a_job():
    pose = {"task": "pose", "keypoints": 17}
    models = models_of({"task": "depth"}, {"task": "normal", "mask": "none"}, {**pose, "boxes": "seg"}, {"task": "seg"})
    assert [model.column for model in in_order(models)] == ["seg", "persons", "depth", "normal"]
    models = models_of({"task": "seg"}, {**pose, "boxes": "detector"}, {**pose, "name": "all", "boxes": "detector"})
    assert [model.column for model in models] == ["seg", "persons", "all", "detector"]
    assert [model.column for model in in_order(models)] == ["detector", "persons", "all", "seg"]


@pytest.mark.parametrize(
    "models",
    [
        (Stub("a", ("b",)), Stub("b", ("a",))),
        (Stub("a", ("b",), PHOTO), Stub("b", ("a",))),
        (Stub("free"), Stub("a", ("b",)), Stub("b", ("a",))),
    ],
)
def test_models_that_need_each_other_are_refused(models):
    with pytest.raises(ConfigError, match=r"^tasks: a, b need each other's columns$"):
        in_order(models)


def test_a_model_that_needs_its_own_column_is_refused():
    with pytest.raises(ConfigError, match="tasks: a need each other's columns"):
        in_order([Stub("a", ("a",))])


def closure(models: list[Stub], name: str) -> set[str]:
    """All that a model waits for."""
    needs = {model.column: set(model.needs) for model in models}
    found: set[str] = set()
    new = needs[name]
    while new - found:
        found |= new
        new = {other for one in found for other in needs.get(one, set())}
    return found & set(needs)


def test_a_column_that_nothing_makes_is_refused():
    models = [Stub("a", ("b", "width", "given")), Stub("b")]
    refuse_missing_columns(models, ["given"])
    with pytest.raises(ConfigError, match=r"^tasks: a needs column 'given', which nothing else in the job makes$"):
        refuse_missing_columns(models, [])


@st.composite
def graphs(draw: st.DrawFn, acyclic: bool) -> list[Stub]:
    """Models in any order that need some columns of each other."""
    names = [f"m{number}" for number in range(draw(st.integers(1, 7)))]
    models = []
    for number, name in enumerate(names):
        others = [*(names[:number] if acyclic else names), "input"]
        needs = tuple(draw(st.lists(st.sampled_from(others), max_size=3, unique=True)))
        models.append(Stub(name, needs, draw(st.sampled_from([PHOTO, RESIZED, RESIZED]))))
    return draw(st.permutations(models))


@given(graphs(acyclic=True))
def test_every_order_suits_the_needs_and_lets_photos_go_early(models):
    ordered = in_order(models)
    assert sorted(model.column for model in ordered) == sorted(model.column for model in models)
    place = {model.column: number for number, model in enumerate(ordered)}
    for model in models:
        assert all(place[name] < place[model.column] for name in closure(models, model.column))
    seeing = [model.column for model in models if model.input_kind == PHOTO]
    wanted = {*seeing, *(name for one in seeing for name in closure(models, one))}
    assert {model.column for model in ordered[: len(wanted)]} == wanted


@given(graphs(acyclic=False))
def test_only_circles_are_refused(models):
    circle = any(model.column in closure(models, model.column) for model in models)
    if circle:
        with pytest.raises(ConfigError, match="need each other's columns"):
            in_order(models)
    else:
        assert len(in_order(models)) == len(models)
