"""Conditions on rows, in SQL: `seg_confidence < 0.6 and len(persons) > 0`.

DuckDB parses and evaluates them, over Arrow tables that this package reads: so they work on every storage, and rows of
files that are being merged count once. To choose rows, only the columns that a condition names are read.
"""

from __future__ import annotations

import itertools
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
UNNAMED = ("STAR", "POSITIONAL_REFERENCE")  # mean other columns where only those that are named are read
CLAUSES = ("modifiers", "group_expressions", "having", "sample", "qualify")
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
        query = f"SELECT coalesce((\n{self.text}\n), false) AS value FROM {TABLE}"
        return np.ma.filled(self._ask(query, rows.select(self.read_columns))["value"], False).astype(bool)


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
    """The columns that an expression names. Raises ConfigError if it is none, or depends on more than one row."""
    if not text.strip():
        raise ConfigError(f"{option}: is empty; give an expression such as width > 640")
    tree = _tree(text, option)
    names = {name.lower(): name for name in schema.names}
    for node in _nodes(tree):
        kind, words = node.get("class"), [str(word).lower() for word in node.get("column_names", ())]
        if kind in TOGETHER:
            raise ConfigError(f"{option}: looks at one row at a time, so it has no sub-queries and no window functions")
        if kind in UNNAMED or (words == [TABLE] and TABLE not in names):
            raise ConfigError(f"{option}: {text!r} names columns only by *, # or the whole row; write their names")
        if node.get("function_name") in _volatile():
            raise ConfigError(
                f"{option}: {node['function_name']}() gives another answer each time, so no command that reads rows "
                "twice would do; to draw a sample, use the hash of the id: hash(image_id) % 10 = 0"
            )
    found = _columns(tree, names)
    for name in found:
        if is_binary(schema.field(name).type):
            raise ConfigError(
                f"{option}: {name} holds encoded maps, which are large; of rows with labels none is null, so write "
                "error_kind is null"
            )
    return tuple(found)


def is_binary(kind: pa.DataType) -> bool:
    """Whether a column holds encoded maps, or other bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _tree(text: str, option: str) -> Any:
    """The syntax tree of an expression. Raises ConfigError for text that is none, or more than one."""
    with _connection().cursor() as cursor:
        query = f"SELECT 1 FROM {TABLE} WHERE (\n{text}\n)"
        ((answer,),) = cursor.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    parsed = json.loads(answer)
    if parsed["error"]:
        raise ConfigError(f"{option}: {text!r} is no SQL: {parsed['error_message']}")
    statements = [statement["node"] for statement in parsed["statements"]]
    # `true) group by (width` would leave the brackets around it.
    if len(statements) != 1 or statements[0]["type"] != "SELECT_NODE" or any(map(statements[0].get, CLAUSES)):
        raise ConfigError(f"{option}: {text!r} is more than one expression")
    return statements[0]["where_clause"]


@cache
def _volatile() -> frozenset[str]:
    """Functions whose value is another one each time."""
    with _connection().cursor() as cursor:
        rows = cursor.execute("SELECT function_name FROM duckdb_functions() WHERE stability = 'VOLATILE'").fetchall()
    return frozenset(name for (name,) in rows)


def _columns(tree: Any, names: dict[str, str]) -> list[str]:
    """The columns that a condition names, in order. names: columns by their names in lower case, as SQL compares them.
    Parameters of lambdas look like columns, so what is none is left to DuckDB."""
    found: dict[str, None] = {}
    for node in _nodes(tree):
        parts = [part.lower() for part in node.get("column_names", ())]
        # The first of persons.score, the second of labels.persons.score. Others are fields, as in p.width of a lambda.
        after_table = [part for before, part in itertools.pairwise(parts) if before == TABLE]
        for part in [*parts[:1], *after_table]:
            if part in names:
                found[names[part]] = None
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
