"""File names made from image ids, which are untrusted text, and sampling images by their id."""

from __future__ import annotations

import hashlib


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends only on the text; decides which images get a picture."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2**64


def picture_name(image_id: str, suffix: str, place: str = "") -> str:
    """Relative file name of the picture of an image: readable, inside the folder, unique per id.

    place: distinguishes images with the same id, where ids may repeat.
    Ids are untrusted text. Everything that is unsafe in a file name (`..`, absolute paths, control characters, long
    parts) is replaced, and a hash of the id is appended so that no two ids get the same name.
    """
    parts = [_safe_part(part) for part in image_id.split("/") if part not in ("", ".")] or ["_"]
    # Pictures end in .suffix and folders never do, so no picture has the name of a folder.
    folders = [f"{part}_" if part.endswith(f".{suffix}") else part for part in parts[:-1]]
    name = "/".join([*folders, parts[-1]])
    if len(name.encode()) > 900:
        name = parts[-1]
    if name != image_id:
        name += "-" + hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{name}-{place}.{suffix}" if place else f"{name}.{suffix}"


def file_names(image_id: str) -> tuple[str, str]:
    """Two relative names for files of an image, inside the folder and to be completed by a suffix: without the
    image's own suffix, and with it. Exports write such files, and masks are looked up under these names."""
    full = picture_name(image_id, "x").removesuffix(".x")
    folder, slash, base = full.rpartition("/")
    return f"{folder}{slash}{base.rsplit('.', 1)[0] or base}", full


def _safe_part(part: str) -> str:
    if part == "..":
        return "__"
    clean = "".join("_" if ord(char) < 32 or 0xD800 <= ord(char) < 0xE000 or char in '\\:*?"<>|\x7f' else char
                    for char in part)  # fmt: skip
    while len(clean.encode()) > 180:
        clean = clean[: len(clean) - max(1, (len(clean.encode()) - 180) // 4)]
    return clean
