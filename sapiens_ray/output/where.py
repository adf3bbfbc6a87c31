"""Conditions on rows, in SQL: `seg_confidence < 0.6 and len(persons) > 0`.

DuckDB parses and evaluates them, over Arrow tables that this package reads: so they work on every storage, and rows of
files that are being merged count once. Of each file only the columns that a condition names are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sapiens_ray.errors import ConfigError, first_line
from sapiens_ray.storage import Folder

if TYPE_CHECKING:
    import duckdb

TABLE = "labels"
TOGETHER = ("SUBQUERY", "WINDOW")  # need other rows: files are looked at one by one
RESULT_TYPES = ("BOOLEAN", '"NULL"')


@dataclass(frozen=True)
class Where:
    """A condition that was checked against the columns of an output. columns: those that it names."""

    text: str
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, schema: pa.Schema) -> Where:
        """Raises ConfigError for text that is no condition, or that names a column which is not in the schema."""
        if not text.strip():
            raise ConfigError("where: is empty; give a condition such as width > 640")
        named = _columns(_tree(text), {name.lower(): name for name in schema.names})
        found = cls(text, tuple(named))
        found._check(schema)
        return found

    @property
    def read_columns(self) -> list[str]:
        """The columns to read for `mask`: any, if the condition names none, since a table needs one to have rows."""
        return list(self.columns) or ["index"]

    def mask(self, rows: pa.Table) -> np.ndarray:
        """N bool: which rows meet the condition; not those for which it is null. Raises ConfigError for a value that
        cannot be computed, such as a text that is no number."""
        if not rows.num_rows:
            return np.zeros(0, bool)
        answer = self._ask(f"SELECT (\n{self.text}\n) IS TRUE FROM {TABLE}", rows.select(self.read_columns))
        return np.array([one for (one,) in answer], bool)

    def _check(self, schema: pa.Schema) -> None:
        table = pa.schema([schema.field(name) for name in self.read_columns]).empty_table()
        try:
            self._ask(f"SELECT 1 FROM {TABLE} WHERE (\n{self.text}\n)", table)  # refuses aggregates, unlike SELECT
        except ConfigError as error:
            if "not found" not in str(error):
                raise
            raise ConfigError(f"{error}; the columns are {', '.join(schema.names)}") from None
        (described,) = self._ask(f"DESCRIBE SELECT (\n{self.text}\n) FROM {TABLE}", table)
        if described[1] not in RESULT_TYPES:
            raise ConfigError(f"where: {self.text!r} is {described[1]}, not a condition such as width > 640")

    def _ask(self, query: str, table: pa.Table) -> list[tuple[Any, ...]]:
        import duckdb

        try:
            with _connection().cursor() as cursor:
                cursor.register(TABLE, table)
                return cursor.execute(query).fetchall()
        except duckdb.Error as error:
            raise ConfigError(f"where: {self.text!r}: {first_line(error)}") from None


@dataclass(frozen=True)
class ChosenRows(Folder):
    """An output folder of which readers see only the rows that meet a condition."""

    where: Where | None = None


def choose(folder: Folder, text: str, schema: pa.Schema) -> ChosenRows:
    """The same folder, of which readers see only the rows that meet a condition. schema: of its files. Raises
    ConfigError for a wrong condition."""
    return ChosenRows(folder.uri, folder.options, Where.parse(text, schema))


def where_of(folder: Folder) -> Where | None:
    """The condition of a folder; None if readers see all rows."""
    return folder.where if isinstance(folder, ChosenRows) else None


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    """DuckDB in memory, which reads nothing but the tables it is given. One thread: rows keep their order."""
    import duckdb

    return duckdb.connect(config={"enable_external_access": "false", "threads": 1})


def _tree(text: str) -> Any:
    """The syntax tree of a condition. Raises ConfigError if it is none."""
    query = f"SELECT 1 FROM {TABLE} WHERE (\n{text}\n)"
    with _connection().cursor() as cursor:
        ((answer,),) = cursor.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    parsed = json.loads(answer)
    if parsed["error"]:
        raise ConfigError(f"where: {text!r} is no SQL condition: {parsed['error_message']}")
    return parsed["statements"][0]["node"]["where_clause"]


def _columns(tree: Any, names: dict[str, str]) -> list[str]:
    """The columns that a condition names, in order. names: columns by their names in lower case, as SQL compares them.
    Parameters of lambdas look like columns, so what is none is left to DuckDB."""
    found: dict[str, None] = {}
    for node in _nodes(tree):
        if node.get("class") in TOGETHER:
            raise ConfigError(
                "where: a condition looks at one row at a time, so it has no sub-queries and no window functions"
            )
        for part in node.get("column_names", ()):  # of labels.persons.score, too
            if part.lower() in names:
                found[names[part.lower()]] = None
    return list(found)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects in a syntax tree."""
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)
