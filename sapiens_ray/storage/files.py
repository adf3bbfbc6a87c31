"""All access to file systems: local paths and any fsspec URL through the same calls.

A written file becomes visible whole or not at all: on a local disk through a temporary file and a rename,
on an object store through one PUT of finished bytes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from sapiens_ray.errors import SapiensRayError
from sapiens_ray.storage.retries import retrying
from sapiens_ray.storage.uris import redact_uris_in

StorageOptions = dict[str, Any]  # passed to fsspec; may hold credentials
MAX_FILE = 1 << 30  # bytes; a larger image or list is refused
TEMPORARY = ".tmp-"  # prefix of unfinished files, which readers skip
# By default botocore waits a minute for a response, keeps ten connections, which are too few for the fetches of a unit,
# and retries calls that s3fs and `retrying` retry as well.
S3_CLIENT: StorageOptions = {
    "connect_timeout": 10, "read_timeout": 30, "max_pool_connections": 64, "retries": {"total_max_attempts": 1},
}  # fmt: skip


def is_remote(uri: str) -> bool:
    """Whether `uri` names something that is not on this machine's file system."""
    return "://" in uri and not uri.startswith(("file://", "local://"))


def in_working_dir(uri: str) -> bool:
    """Whether a path is in the copy of `ray job submit --working-dir`, which Ray deletes after the job."""
    return "/runtime_resources/working_dir_files/" in uri


def request_threads(remote: bool) -> int:
    """How many requests to send at a time: an object store answers each after some 50 ms, however many are waiting."""
    return 32 if remote else 4


def local_path(uri: str) -> str:
    """The path of a local URI, without its `file://`."""
    return uri.split("://", 1)[1] if "://" in uri else uri


def filesystem(uri: str, options: StorageOptions | None = None) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URI and the path inside it."""
    if not is_remote(uri):
        return LocalFileSystem(), local_path(uri)
    given = dict(options or {})
    if uri.startswith(("s3://", "s3a://")):
        given["config_kwargs"] = {**S3_CLIENT, **(given.get("config_kwargs") or {})}
    fs, path = fsspec.url_to_fs(uri, **given)
    return fs, path


def read_bytes(uri: str, options: StorageOptions | None = None) -> bytes:
    """All bytes of one file. Raises OSError, also for a local path that is not a regular file (a pipe would
    block forever)."""
    if not is_remote(uri):
        path = local_path(uri)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer must not block
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(path)
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")
            if status.st_size > MAX_FILE:
                raise OSError(f"the file has {status.st_size} bytes; the limit is {MAX_FILE}")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    fs, path = filesystem(uri, options)
    return bytes(retrying(fs.cat_file, path, of=uri))


def open_read(uri: str, options: StorageOptions | None = None) -> IO[bytes]:
    """A seekable binary stream over one file."""
    if not is_remote(uri):
        return Path(local_path(uri)).open("rb")
    fs, path = filesystem(uri, options)
    stream: IO[bytes] = retrying(fs.open, path, "rb", of=uri)
    cache = getattr(stream, "cache", None)
    if cache is not None and hasattr(cache, "fetcher"):  # fsspec's buffered files fetch their blocks through it
        cache.fetcher = partial(retrying, cache.fetcher, of=uri)
    return stream


def is_reachable(uri: str, options: StorageOptions | None = None) -> bool:
    """Whether the storage of a URI answers now. It is asked for a file in the same folder that does not exist.

    Always True for http, where each URL may be on a different server.
    """
    if uri.startswith(("http://", "https://")):
        return True
    fs, path = filesystem(uri.rpartition("/")[0] + f"/{TEMPORARY}nothing", options)
    try:
        fs.invalidate_cache()
        fs.exists(path)
    except Exception:
        return False
    return True


def is_gone(uri: str, options: StorageOptions | None = None) -> bool:
    """Whether a file certainly does not exist: its folder can be listed and does not contain it.

    Never True for http.
    """
    if uri.startswith(("http://", "https://")):
        return False
    fs, path = filesystem(uri, options)
    try:
        fs.invalidate_cache()
        beside = retrying(fs.ls, path.rpartition("/")[0] or "/", detail=False, of=uri)
    except Exception:
        return False
    return path.rpartition("/")[2] not in {name.rstrip("/").rpartition("/")[2] for name in beside}


def stamp(uri: str, options: StorageOptions | None = None) -> tuple[int, str]:
    """Size in bytes and a token that changes when the file does (etag, or modification time)."""
    fs, path = filesystem(uri, options)
    info = retrying(fs.info, path, of=uri)
    size = int(info.get("size") or 0)
    for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified"):
        if info.get(key) is not None:
            return size, str(info[key]).strip('"')
    return size, ""


@contextlib.contextmanager
def translate_errors(error: type[SapiensRayError], what: str) -> Iterator[None]:
    """Convert every exception of a storage library inside the block to `error`: "<what>: <reason>". They raise OSError,
    and many other types for wrong addresses, missing credentials and bad options."""
    try:
        yield
    except SapiensRayError:
        raise
    except Exception as problem:
        text = " ".join(redact_uris_in(str(problem)).split())[:300]
        raise error(f"{what}: {type(problem).__name__}: {text}") from problem


@dataclass(frozen=True)
class Folder:
    """A folder on any file system, addressed by relative names with forward slashes."""

    uri: str
    options: StorageOptions = field(default_factory=dict, repr=False)

    @property
    def remote(self) -> bool:
        return is_remote(self.uri)

    def join(self, name: str) -> str:
        """The full URI of a file in this folder."""
        return f"{self.uri.rstrip('/')}/{name}" if name else self.uri

    def _at(self, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
        return filesystem(self.join(name), self.options)

    def files(self, name: str = "") -> list[str]:
        """Sorted names of the files directly in a sub-folder, without unfinished ones; empty if it does not exist."""
        return [found for found in self._names(name) if not found.startswith(TEMPORARY)]

    def _names(self, name: str) -> list[str]:
        if not self.remote:
            try:
                with os.scandir(local_path(self.join(name))) as entries:
                    return sorted(entry.name for entry in entries if entry.is_file())
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(info["name"].rsplit("/", 1)[-1] for info in self._remote_files(name))

    def _remote_files(self, name: str) -> list[dict[str, Any]]:
        """What a remote storage says now of the files directly in a sub-folder; empty if it does not exist."""
        fs, path = self._at(name)
        fs.invalidate_cache(path)
        try:
            return [info for info in retrying(fs.ls, path, detail=True, of=self.uri) if info["type"] == "file"]
        except FileNotFoundError:
            return []

    def modified(self, name: str = "") -> dict[str, float]:
        """When each file directly in a sub-folder was written, in seconds since 1970; without files of which the
        storage does not tell it; empty if the sub-folder does not exist."""
        found: dict[str, float] = {}
        if not self.remote:
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                os.scandir(local_path(self.join(name))) as entries,
            ):
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # a merge has deleted it since
                        if entry.is_file():
                            found[entry.name] = entry.stat().st_mtime
            return found
        for info in self._remote_files(name):
            told = next(
                (info[key] for key in ("LastModified", "last_modified", "mtime", "updated") if key in info), None
            )
            if isinstance(told, datetime):
                found[info["name"].rsplit("/", 1)[-1]] = told.timestamp()
            elif isinstance(told, int | float):
                found[info["name"].rsplit("/", 1)[-1]] = float(told)
        return found

    def exists(self, name: str) -> bool:
        self._forget_listing(name)
        fs, path = self._at(name)
        return bool(retrying(fs.exists, path, of=self.uri))

    def _forget_listing(self, name: str) -> None:
        """Forget an old listing of a file's folder: it lacks what other processes have written since."""
        if self.remote:
            fs, path = self._at(name)
            with contextlib.suppress(KeyError):  # of another thread that does the same
                fs.invalidate_cache(path.rpartition("/")[0])

    def read(self, name: str) -> bytes:
        return read_bytes(self.join(name), self.options)

    def open(self, name: str) -> IO[bytes]:
        self._forget_listing(name)
        return open_read(self.join(name), self.options)

    def write(self, name: str, data: bytes | memoryview, durable: bool = True) -> None:
        """Publish finished bytes under `name`, replacing an existing file.

        With `durable` they are on the disk before the name is, so that a power failure cannot leave an empty file.
        """
        if self.remote:
            fs, path = self._at(name)
            retrying(fs.pipe_file, path, bytes(data), of=self.uri)
            return
        with self.replacing(name, durable) as temporary:
            temporary.write_bytes(data)

    def link(self, name: str, path: str) -> None:
        """Publish a symbolic link to a file of this machine, replacing an existing one. The folder must be local."""
        target = Path(local_path(self.join(name)))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        temporary.symlink_to(path)
        temporary.replace(target)

    def create(self, name: str, data: bytes) -> bool:
        """Publish a file unless one of this name exists. Returns whether it was published.

        On storages without conditional writes, two callers at the same moment may both get True.
        """
        if not self.remote:
            target = Path(local_path(self.join(name)))
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
            try:
                temporary.write_bytes(data)
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                if target.exists():
                    return False
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            return True
        fs, path = self._at(name)
        if retrying(fs.exists, path, of=self.uri):
            return False
        try:
            retrying(fs.pipe_file, path, data, mode="create", of=self.uri)
        except FileExistsError:
            return False
        except (TypeError, ValueError, NotImplementedError):
            self.write(name, data)
        return True

    def replacing(self, name: str, durable: bool = True) -> _Replacement:
        """Context manager that gives a local temporary path and publishes the finished file under `name`."""
        return _Replacement(self, name, durable)

    def delete(self, name: str) -> None:
        """Remove a file; does nothing if there is none."""
        fs, path = self._at(name)
        try:
            retrying(fs.rm_file, path, of=self.uri)
        except FileNotFoundError:
            return

    @property
    def threads(self) -> int:
        """How many requests to send at a time."""
        return request_threads(self.remote)

    def sweep(self, name: str = "", deep: bool = True) -> None:
        """Remove unfinished files that killed writers left in a sub-folder (local disks only; a PUT leaves none).

        deep: also in the folders below it.
        """
        if self.remote:
            return
        for folder, folders, files in os.walk(local_path(self.join(name))):
            if not deep:
                folders.clear()
            for file in files:
                if file.startswith(TEMPORARY):
                    (Path(folder) / file).unlink(missing_ok=True)


class _Replacement:
    """See Folder.replacing. Nothing becomes visible if the block raises."""

    def __init__(self, folder: Folder, name: str, durable: bool) -> None:
        self.folder, self.name, self.durable = folder, name, durable

    def __enter__(self) -> Path:
        if self.folder.remote:
            import tempfile

            self.temporary = Path(tempfile.gettempdir()) / f"{TEMPORARY}{uuid.uuid4().hex}"
        else:
            self.target = Path(local_path(self.folder.join(self.name)))
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.temporary = self.target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        return self.temporary

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            self.temporary.unlink(missing_ok=True)

    def _publish(self) -> None:
        if self.folder.remote:
            fs, path = self.folder._at(self.name)
            retrying(fs.put_file, str(self.temporary), path, of=self.folder.uri)
            return
        if self.durable:
            with self.temporary.open("rb") as file:
                os.fsync(file.fileno())
        self.temporary.replace(self.target)


def walk(folder: Folder, enter: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, bool]]:
    """Every file below a folder as (relative name, whether it is a file), sorted by name within each folder.

    Links are followed, but never into a folder that is already on the path (a loop). A folder itself is
    yielded with False before its content; callers decide from its name whether it becomes a row.

    enter: whether to look into a folder with this name; object stores have no folders, and list all keys.
    """
    if folder.remote:
        fs, root = folder._at("")
        root = root.rstrip("/")
        for path in _s3_keys(fs, root) if "s3" in fs.protocol else sorted(retrying(fs.find, root, of=folder.uri)):
            if not path.endswith("/"):  # "directory markers" of object-store consoles
                yield path[len(root) :].lstrip("/"), True
        return
    yield from _walk_local(Path(local_path(folder.uri)), "", frozenset(), enter)


def _s3_keys(fs: fsspec.AbstractFileSystem, root: str) -> Iterator[str]:
    """Every key below a prefix, page by page, in the order of S3, which is that of UTF-8. s3fs returns all at once:
    for millions of keys after minutes, with a dict per key."""
    bucket, prefix, _ = fs.split_path(root)
    page: StorageOptions = {}
    while not page or page.get("IsTruncated"):
        more = {"ContinuationToken": page["NextContinuationToken"]} if page else {}
        below = f"{prefix}/" if prefix else ""
        page = retrying(fs.call_s3, "list_objects_v2", of=f"s3://{bucket}", Bucket=bucket, Prefix=below, **more)
        for entry in page.get("Contents", []):
            yield f"{bucket}/{entry['Key']}"


def _walk_local(
    path: Path, prefix: str, above: frozenset[tuple[int, int]], enter: Callable[[str], bool]
) -> Iterator[tuple[str, bool]]:
    status = path.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(path) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = prefix + entry.name
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that points to itself
            is_folder = False
        yield name, not is_folder
        if is_folder and enter(f"{name}/"):
            yield from _walk_local(path / entry.name, f"{name}/", above | {identity}, enter)
