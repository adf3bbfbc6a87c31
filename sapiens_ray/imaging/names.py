"""File names made from image ids, which are untrusted text, and sampling images by their id."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from sapiens_ray.imaging.images import has_image_suffix

_NUMBERED = re.compile(r"\.(parquet|mp4|mov|m4v|mkv|webm)/[0-9]+\Z", re.IGNORECASE)  # rows, frames
_HASHED = re.compile(r"-[0-9a-f]{16}\Z")


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends only on the text; decides which images get a picture."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2**64


def has_picture(image_id: str, fraction: float) -> bool:
    """Whether an image is among the share of the images that get a picture."""
    return hash_fraction(image_id) < fraction


def picture_name(image_id: str, suffix: str, place: str = "") -> str:
    """Relative file name of the picture of an image: readable, inside the folder, unique per id.

    suffix: of pictures, without dot. place: distinguishes images with the same id, where ids may repeat.

    With suffix jpg, the picture of `a.jpg` is `a.jpg`, that of `a.png` is `a.png.jpg`. Ids are untrusted text, and any
    two may occur in one job. So all others get a hash: those that are unsafe as a file name (`..`, absolute paths,
    control characters, long parts; that is replaced), and those whose name may belong to another id: `a` and
    `a.png.jpg`, and what looks as if it had a hash.
    """
    ending = f".{suffix}"
    # Pictures end in .suffix and folders never do, so no picture has the name of a folder.
    name = _safe_name(image_id, lambda folder: folder.lower().endswith(ending))
    stem = name[: -len(ending)] if name.lower().endswith(ending) else name
    marks = [] if name == image_id and (place or _is_free(name, stem, ending)) else [_hash(image_id)]
    marks += [place] if place else []
    if not marks:
        return name if stem != name else name + ending
    return "-".join([stem if not stem.endswith("/") and stem else f"{stem}_", *marks]) + ending


def _is_free(name: str, stem: str, ending: str) -> bool:
    """Whether no other id can get the name of the picture of this id. stem: the id without the suffix of pictures."""
    if stem == name:
        return _gets_suffix(name, ending)
    hidden = stem.rpartition("/")[2] == ""
    return not (hidden or _gets_suffix(stem, ending) or _HASHED.search(stem))


def _gets_suffix(name: str, ending: str) -> bool:
    """Whether the picture of an image with this id is called after it: images with another suffix than pictures,
    rows of Parquet files and frames of videos."""
    other = has_image_suffix(name) and not name.lower().endswith(ending)
    return other or _NUMBERED.search(name) is not None


def file_names(image_id: str) -> tuple[str, str]:
    """Two relative names for files of an image, inside the folder and to be completed by a suffix: without the
    image's own suffix, and with it. Exports write such files, and masks are looked up under these names."""
    full = _safe_name(image_id, lambda folder: folder.endswith(".x"))
    if full != image_id:
        full += f"-{_hash(image_id)}"
    folder, slash, base = full.rpartition("/")
    return f"{folder}{slash}{base.rsplit('.', 1)[0] or base}", full


def _hash(image_id: str) -> str:
    return hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _safe_name(image_id: str, is_reserved: Callable[[str], bool]) -> str:
    """The id with everything replaced that is unsafe in a relative path. is_reserved: of folders, which are changed."""
    parts = [_safe_part(part) for part in image_id.split("/") if part not in ("", ".")] or ["_"]
    folders = [f"{part}_" if is_reserved(part) else part for part in parts[:-1]]
    name = "/".join([*folders, parts[-1]])
    return parts[-1] if len(name.encode()) > 900 else name


def _safe_part(part: str) -> str:
    if part == "..":
        return "__"
    clean = "".join("_" if ord(char) < 32 or 0xD800 <= ord(char) < 0xE000 or char in '\\:*?"<>|\x7f' else char
                    for char in part)  # fmt: skip
    while len(clean.encode()) > 180:
        clean = clean[: len(clean) - max(1, (len(clean.encode()) - 180) // 4)]
    return clean
