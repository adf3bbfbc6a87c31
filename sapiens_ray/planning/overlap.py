"""Images that several URIs of an input name: each is listed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from sapiens_ray.sources import Entry


class Listed:
    """What earlier URIs of an input have listed: folders, which are not remembered image by image, and single images.

    is_listed: whether a file, by its name relative to a folder, is listed when the folder is.
    What `without` gives must be read before anything is added.
    """

    def __init__(self, is_listed: Callable[[str, str], bool]) -> None:
        self._is_listed = is_listed
        self._folders: set[str] = set()
        self._images: set[str] = set()
        self._around: set[str] = set()  # every folder that something listed is in

    def without(self, uri: str, entries: Iterable[Entry]) -> Iterable[Entry]:
        """The entries of a folder, or of single images in it, that no earlier URI has listed."""
        folder = uri.rstrip("/")
        around = [one for one in (folder, *_parents(folder)) if one in self._folders]
        inside = [one for one in self._folders if one.startswith(f"{folder}/")] if folder in self._around else []
        if not around and not inside and folder not in self._around:
            return entries
        return self._fresh(entries, [*around, *inside])

    def _fresh(self, entries: Iterable[Entry], folders: list[str]) -> Iterator[Entry]:
        for entry in entries:
            names = ((one, entry.uri[len(one) + 1 :]) for one in folders if entry.uri.startswith(f"{one}/"))
            if entry.uri not in self._images and not any(self._is_listed(*one) for one in names):
                yield entry

    def add_folder(self, uri: str) -> None:
        self._folders.add(uri.rstrip("/"))
        self._around.update(_parents(uri.rstrip("/")))

    def add_images(self, uris: Iterable[str]) -> None:
        for uri in uris:
            self._images.add(uri)
            self._around.update(_parents(uri))


def _parents(uri: str) -> Iterator[str]:
    """The folders that a file or folder is in, from the innermost to the outermost."""
    while "/" in uri:
        uri = uri.rpartition("/")[0]
        yield uri
