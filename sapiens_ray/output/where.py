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
CONDITIONS = ("BOOLEAN", '"NULL"', "NULL")
NUMBERS = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
    "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN",
)  # fmt: skip


@dataclass(frozen=True)
class Expression:
    """An SQL expression over the columns of one row, checked against an output.

    columns: those that it names. option: what the user wrote it for, in messages.
    """

    text: str
    columns: tuple[str, ...]
    option: str

    @property
    def read_columns(self) -> list[str]:
        """The columns to read for its values: any, if it names none, since a table needs one to have rows."""
        return list(self.columns) or ["index"]

    def _type(self, schema: pa.Schema) -> str:
        """Its SQL type. Raises ConfigError if it cannot be computed of one row."""
        table = pa.schema([schema.field(name) for name in self.read_columns]).empty_table()
        try:
            self._ask(f"SELECT 1 FROM {TABLE} WHERE (\n{self.text}\n) IS NULL", table)  # refuses aggregates
        except ConfigError as error:
            if "not found" not in str(error):
                raise
            raise ConfigError(f"{error}; the columns are {', '.join(schema.names)}") from None
        described = self._ask(f"DESCRIBE SELECT (\n{self.text}\n) AS value FROM {TABLE}", table)
        return str(described["column_type"][0])

    def _ask(self, query: str, rows: pa.Table) -> dict[str, np.ndarray]:
        """The columns of the answer."""
        import duckdb

        try:
            with _connection().cursor() as cursor:
                cursor.register(TABLE, rows)
                return dict(cursor.execute(query).fetchnumpy())
        except duckdb.Error as error:
            raise ConfigError(f"{self.option}: {self.text!r}: {first_line(error)}") from None


class Where(Expression):
    """A condition."""

    @classmethod
    def parse(cls, text: str, schema: pa.Schema) -> Where:
        """Raises ConfigError for text that is no condition, or that names a column which is not in the schema."""
        found = cls(text, _named(text, schema, "where"), "where")
        kind = found._type(schema)
        if kind not in CONDITIONS:
            raise ConfigError(f"where: {text!r} is {kind}, not a condition such as width > 640")
        return found

    def mask(self, rows: pa.Table) -> np.ndarray:
        """N bool: which rows meet the condition; not those for which it is null. Raises ConfigError for a value that
        cannot be computed, such as a text that is no number."""
        query = f"SELECT (\n{self.text}\n) IS TRUE AS value FROM {TABLE}"
        return self._ask(query, rows.select(self.read_columns))["value"].astype(bool)


class Order(Expression):
    """A number by which rows are sorted."""

    @classmethod
    def parse(cls, text: str, schema: pa.Schema) -> Order:
        """Raises ConfigError for text that is no expression, or whose values are no numbers."""
        found = cls(text, _named(text, schema, "order-by"), "order-by")
        kind = found._type(schema)
        if kind.partition("(")[0] not in NUMBERS:
            raise ConfigError(f"order-by: {text!r} is {kind}; rows are sorted by numbers, such as len(persons)")
        return found

    def values(self, rows: pa.Table) -> np.ndarray:
        """N float64; NaN for null."""
        query = f"SELECT CAST((\n{self.text}\n) AS DOUBLE) AS value FROM {TABLE}"
        return np.ma.filled(self._ask(query, rows.select(self.read_columns))["value"].astype(np.float64), np.nan)


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


def _named(text: str, schema: pa.Schema, option: str) -> tuple[str, ...]:
    """The columns that an expression names. Raises ConfigError if it is none, or looks at other rows."""
    if not text.strip():
        raise ConfigError(f"{option}: is empty; give an expression such as width > 640")
    query = f"SELECT 1 FROM {TABLE} WHERE (\n{text}\n)"
    with _connection().cursor() as cursor:
        ((answer,),) = cursor.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    parsed = json.loads(answer)
    if parsed["error"]:
        raise ConfigError(f"{option}: {text!r} is no SQL: {parsed['error_message']}")
    tree = parsed["statements"][0]["node"]["where_clause"]
    if any(node.get("class") in TOGETHER for node in _nodes(tree)):
        raise ConfigError(f"{option}: looks at one row at a time, so it has no sub-queries and no window functions")
    return tuple(_columns(tree, {name.lower(): name for name in schema.names}))


def _columns(tree: Any, names: dict[str, str]) -> list[str]:
    """The columns that a condition names, in order. names: columns by their names in lower case, as SQL compares them.
    Parameters of lambdas look like columns, so what is none is left to DuckDB."""
    found: dict[str, None] = {}
    for node in _nodes(tree):
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
