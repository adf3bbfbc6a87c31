"""`export --format huggingface`: a folder that `datasets.load_dataset` opens, with its card, and its upload."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa

from sapiens_ray.errors import ConfigError
from sapiens_ray.export.base import Export, Exported, Option, Options
from sapiens_ray.export.huggingface.card import CARD, Card, is_edited, read_mark
from sapiens_ray.export.huggingface.features import (
    IMAGE_TYPE,
    Column,
    arrow_schema,
    dataset_columns,
    image_cells,
)
from sapiens_ray.export.huggingface.push import Repository
from sapiens_ray.export.huggingface.shards import are_complete, earlier_shards, write_shards
from sapiens_ray.export.photos import Photos
from sapiens_ray.output.done import list_units
from sapiens_ray.output.layout import DATA as OUTPUT_DATA
from sapiens_ray.output.reading import iterate_batches, schema_in
from sapiens_ray.output.record import read_record
from sapiens_ray.output.schema import labels_in
from sapiens_ray.output.summary import counted
from sapiens_ray.output.where import where_of
from sapiens_ray.storage import Folder
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.version import __version__

BATCH = 16  # rows that are converted together
NEEDED = ["image_id", "width", "height", "shard", "index", "error_kind"]


def _licence(text: str) -> str:
    """An identifier of a licence, as the hub has them. Raises ValueError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
        raise ValueError("should be an identifier of the hub, such as cc-by-nc-4.0, apache-2.0 or other")
    return text


def _repository(text: str) -> str:
    """The name of a repository. Raises ValueError."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text):
        raise ValueError("should be user/name or organisation/name")
    return text


PHOTOS = Option("photos", "also the original photos, read again from the input of the job", False, flag=True)
LICENSE = Option("license", "the licence of the dataset; default: that of the models, if it is known", None, _licence)
PUSH = Option("push", "upload to this dataset on the hub, such as user/name; --to is then a local folder", None,
              _repository)  # fmt: skip
PRIVATE = Option("private", "with --push: a new dataset is private; one that is public already is refused", False,
                 flag=True)  # fmt: skip


def export_huggingface(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `data/train-*.parquet` and `README.md`, the dataset card. One row per image with labels.

    An earlier export in the folder is replaced. Raises ConfigError for a folder that holds another dataset or an edited
    card, and for a repository that cannot be written to or holds another dataset; OutputError if there are no labels.
    """
    given = options or {}
    _refuse_other_dataset(target)
    state = _state(source, given)
    done = _written_before(target, state) if given.get(PUSH.name) else None
    if done is None:
        _refuse_edited_card(target)
    repository = _repository_of(given, target)
    if done is None:
        done = _write(source, target, given, state)
    if repository is not None:
        # The card first: what an interrupted upload leaves on the hub is known by it.
        done.notes.append(f"uploaded to {repository.upload(target, [CARD, *earlier_shards(target)])}")
    return done


def _write(source: Folder, target: Folder, options: Options, state: str) -> Exported:
    schema = schema_in(source)
    labels = labels_in(schema)
    columns, left_out = dataset_columns(schema, labels)
    done = Exported(left_out=left_out)
    errors: Counter[str] = Counter()
    rows = _rows(source, columns, done, errors)
    photo = None
    if options.get(PHOTOS.name):
        free = itertools.chain(["image", "photo"], (f"photo_{number}" for number in itertools.count(2)))
        photo = next(name for name in free if name not in schema.names)
        columns = [Column(photo, IMAGE_TYPE), *columns]
        rows = _with_photos(rows, photo, Photos(source), done)
    asked = arrow_schema(columns)
    tables = (table.select(asked.names).replace_schema_metadata(asked.metadata) for table in rows)
    written = write_shards(target, tables, asked)
    card = Card(read_record(source) or {}, labels, columns, written, errors, photo, options.get(LICENSE.name), state)
    target.write(CARD, card.text().encode())
    if card.licence is None:
        done.notes.append("the licence of the models is not known: README.md says so; --license NAME sets it")
    return done


EXPORT = Export(
    "a dataset for datasets.load_dataset and the Hugging Face hub, with a card",
    export_huggingface,
    (PHOTOS, LICENSE, PUSH, PRIVATE),
)


def _state(source: Folder, options: Options) -> str:
    """A text that changes when a new export would differ: when label files or options do."""
    where = where_of(source)
    files = [unit.file for unit in list_units(source)]
    told = [files, source.modified(OUTPUT_DATA), where.text if where else "", options.get(PHOTOS.name),
            options.get(LICENSE.name), __version__]  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _written_before(target: Folder, state: str) -> Exported | None:
    """What an earlier export of the same labels wrote, if all of it is there: an interrupted upload goes on."""
    mark = read_mark(target.read(CARD)) if target.exists(CARD) else None
    if mark is None or mark["state"] != state or not are_complete(earlier_shards(target)):
        return None
    notes = [f"{redact_uri(target.uri)} holds this dataset already: it is uploaded as it is"]
    return Exported(mark["images"], mark["error_rows"], notes=notes)


def _refuse_other_dataset(target: Folder) -> None:
    """Raise ConfigError if the target holds a README or data files that no export wrote: they would be replaced."""
    there = target.exists(CARD)
    if there and read_mark(target.read(CARD)) is None:
        raise ConfigError(f"--to {redact_uri(target.uri)}: {CARD} was not written by this export; name another folder")
    if not there and earlier_shards(target):
        raise ConfigError(
            f"--to {redact_uri(target.uri)}: holds data files of a dataset without {CARD}; delete them, or name "
            "another folder"
        )


def _refuse_edited_card(target: Folder) -> None:
    """Raise ConfigError if the card of an earlier export was edited: the text would be lost."""
    if target.exists(CARD) and is_edited(target.read(CARD)):
        raise ConfigError(
            f"--to {redact_uri(target.uri)}: {CARD} was edited; keep your text, and delete {CARD} and data/, or name "
            "another folder"
        )


def _repository_of(options: Options, target: Folder) -> Repository | None:
    """The repository to upload to, which is made now if it does not exist, so that what is wrong with it is said before
    any work."""
    name, private = options.get(PUSH.name), bool(options.get(PRIVATE.name))
    if name is None:
        if private:
            raise ConfigError("--private says how --push makes a dataset; give --push user/name as well")
        return None
    if target.remote:
        raise ConfigError(
            f"--to {redact_uri(target.uri)}: --push uploads from a folder on this machine; name a local one"
        )
    return Repository.made(str(name), private, target.read(CARD) if target.exists(CARD) else None)


def _rows(source: Folder, columns: list[Column], done: Exported, errors: Counter[str]) -> Iterator[pa.Table]:
    """The rows with labels as tables of the columns and those in NEEDED. Counts in `done`, and kinds in `errors`."""
    wanted = list(dict.fromkeys([*NEEDED, *(column.name for column in columns)]))
    for batch in iterate_batches(source, wanted, BATCH):
        table = pa.Table.from_batches([batch])
        good = table.filter(table["error_kind"].is_null())
        errors.update(table["error_kind"].drop_null().to_pylist())
        done.images += good.num_rows
        done.skipped += table.num_rows - good.num_rows
        if good.num_rows:
            for column in columns:
                at = good.schema.get_field_index(column.name)
                good = good.set_column(at, column.name, column.convert(good[column.name]))
            yield good


def _with_photos(tables: Iterable[pa.Table], name: str, photos: Photos, done: Exported) -> Iterator[pa.Table]:
    """The tables with a column of photos. A photo that is gone, or is another one than was labelled, is null."""
    without = 0
    example = ""
    for table in tables:
        files: list[bytes | None] = []
        for row in table.select(NEEDED).to_pylist():
            found, _ = photos.read(row)
            files.append(found)
            if found is None:
                without, example = without + 1, example or row["image_id"]
        names = pa.array([image_id.rpartition("/")[2] for image_id in table["image_id"].to_pylist()], pa.string())
        yield table.append_column(pa.field(name, IMAGE_TYPE), image_cells(pa.array(files, pa.binary()), names))
    if without:
        done.notes.append(
            f"{counted(without, 'photo')} could not be read again, or changed since, and so null: such as {example}"
        )
