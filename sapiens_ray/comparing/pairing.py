"""Which columns of two outputs are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sapiens_ray.errors import ConfigError
from sapiens_ray.tasks.stored import StoredLabels


@dataclass(frozen=True)
class TaskPair:
    """The stored labels of a task in A and in B, which are of one kind."""

    a: StoredLabels
    b: StoredLabels

    @property
    def name(self) -> str:
        """The column; `a:b` if the columns have different names."""
        return self.a.column if self.a.column == self.b.column else f"{self.a.column}:{self.b.column}"


@dataclass(frozen=True)
class Paired:
    """The tasks to compare. only_in_a, only_in_b: columns of tasks that the other output lacks, or has as another kind;
    empty if the tasks were chosen."""

    pairs: list[TaskPair]
    only_in_a: list[str] = field(default_factory=list)
    only_in_b: list[str] = field(default_factory=list)


def pair_tasks(a: Sequence[StoredLabels], b: Sequence[StoredLabels], chosen: Sequence[str] = ()) -> Paired:
    """The tasks of one name and kind, or the chosen ones. chosen: `COLUMN`, or `A_COLUMN:B_COLUMN`.

    Raises ConfigError for a wrong choice, or if nothing can be compared.
    """
    of_a, of_b = ({one.column: one for one in labels} for labels in (a, b))
    if chosen:
        return Paired([_chosen(text, of_a, of_b) for text in dict.fromkeys(chosen)])
    pairs = [TaskPair(one, of_b[name]) for name, one in of_a.items() if _same_kind(one, of_b.get(name))]
    if not pairs:
        raise ConfigError(
            f"A and B have no task of one column and kind: A has {_listed(of_a)}, B has {_listed(of_b)}; "
            "--task A_COLUMN:B_COLUMN compares columns of different names"
        )
    used = {pair.name for pair in pairs}
    return Paired(pairs, [name for name in of_a if name not in used], [name for name in of_b if name not in used])


def _chosen(text: str, of_a: dict[str, StoredLabels], of_b: dict[str, StoredLabels]) -> TaskPair:
    first, _, second = text.partition(":")
    second = second or first
    for output, name, columns in (("A", first, of_a), ("B", second, of_b)):
        if name not in columns:
            raise ConfigError(f"--task {text}: {output} has no task {name!r}; it has {_listed(columns)}")
    if not _same_kind(of_a[first], of_b[second]):
        raise ConfigError(f"--task {text}: {of_a[first].kind} and {of_b[second].kind} cannot be compared")
    return TaskPair(of_a[first], of_b[second])


def _same_kind(a: StoredLabels, b: StoredLabels | None) -> bool:
    return b is not None and a.kind == b.kind and type(a) is type(b)


def _listed(columns: dict[str, StoredLabels]) -> str:
    return ", ".join(f"{name} ({one.kind})" if name != one.kind else name for name, one in columns.items()) or "none"
