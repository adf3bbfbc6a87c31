"""Image files: found in folders, searched recursively, or named one by one; fetching them, also for lists."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ClassVar

from sapiens_ray import storage
from sapiens_ray.errors import StorageError
from sapiens_ray.imaging.images import has_image_suffix
from sapiens_ray.sources.base import READING_SETTINGS, Encoded, Entry, EntrySource, Images, Reading, matches, reason
from sapiens_ray.storage import StorageOptions
from sapiens_ray.storage.retries import concerns_one_file
from sapiens_ray.storage.uris import readable, redact_uri
from sapiens_ray.units import Done


class ImageFiles(EntrySource):
    """A file that is an image. Folders are walked by `find`; `planning/discovery.py` finds out what they contain."""

    ignored: ClassVar[tuple[str, ...]] = READING_SETTINGS

    def entries(self, uri: str, id_prefix: str, reading: Reading) -> Iterator[Entry]:
        yield Entry(uri, readable(id_prefix + uri.rpartition("/")[2]))


SOURCE = ImageFiles()


def find(
    folder: storage.Folder,
    include: Sequence[str],
    id_prefix: str = "",
    listed: Iterable[tuple[str, bool]] | None = None,
) -> Iterator[Entry]:
    """Every image file below a folder, in a stable order.

    listed: the result of `storage.walk` for the folder, if it is known already.
    With `include` only the patterns decide, so that files without a suffix can be chosen too. A folder with the
    name of an image is an entry as well (and an error row later): somebody may expect an image there.
    """
    for name, is_file in storage.walk(folder) if listed is None else listed:
        if chosen(name, is_file, include):
            yield Entry(uri=folder.join(name), image_id=readable(id_prefix + name))


def chosen(name: str, is_file: bool, include: Sequence[str]) -> bool:
    """Whether a file of a folder, or a folder in it, is listed as an image. See `find`."""
    if include and not matches(name, include):
        return False
    return has_image_suffix(name) or bool(include and is_file)


def read(entries: Sequence[Entry], done: Done, options: StorageOptions) -> Images:
    """Fetch the entries that are not done, several at a time, in order."""
    todo = [index for index in range(len(entries)) if not done.has(index)]
    threads = storage.request_threads(any(storage.is_remote(entries[index].uri) for index in todo))
    waiting: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="fetch") as pool:
        try:
            for index in todo:
                waiting.append(pool.submit(_fetch, index, entries[index], options))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
    return len(entries)


def _fetch(index: int, entry: Entry, options: StorageOptions) -> Encoded:
    image = Encoded(index, entry.image_id, redact_uri(entry.uri), extra=entry.extra)
    fill(image, entry.uri, options)
    return image


def fill(image: Encoded, uri: str, options: StorageOptions) -> None:
    """Set the bytes of an image, or the reason why it has none. Raises StorageError if the storage fails."""
    try:
        image.data = storage.read_bytes(uri, options)
    except Exception as error:  # storage libraries raise many types
        why = reason(error)
        if storage.is_remote(uri) and not concerns_one_file(error, partial(storage.is_reachable, uri, options)):
            raise StorageError(f"cannot read {redact_uri(uri)}: {why.message}") from None
        image.error = why
