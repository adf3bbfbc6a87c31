"""URIs in the form in which rows, files and messages may contain them."""

from __future__ import annotations

import os
import re

_SECRET = re.compile(r"([?&][^=&#]*(?:sig|token|secret|credential|passw|key)[^=&#]*)=[^&#]*", re.IGNORECASE)
_USER = re.compile(r"://[^/?]*@")  # also in the URLs inside a chained one, such as zip://in.jpg::https://me:pw@host/a


def readable(text: str) -> str:
    """Text that can be written as UTF-8: bytes of a file name that are not UTF-8 become \\xNN."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate, which JSON can express
        return text.encode("utf-8", "backslashreplace").decode()


def redact_uri(uri: str) -> str:
    """A URI as text, without user, password, signatures and keys."""
    if "://" in uri:
        uri = _SECRET.sub(r"\1=...", _USER.sub("://", uri))
    return readable(uri)


def redact_uris_in(text: str) -> str:
    """A text in which every URI is redacted: libraries quote the requested URI in their errors."""
    return re.sub(r"\w+://[^\s'\"<>]+", lambda found: redact_uri(found[0]), text)


def storage_of(uri: str) -> str:
    """What of a URI names its storage, without secrets: the bucket or server of a URL, such as s3://photos; of other
    paths all of it."""
    scheme, mark, rest = without_query(uri).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if mark else scheme


def without_query(uri: str) -> str:
    """A URL without user, password and query, where signatures are; other text stays as it is."""
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return uri
    return _USER.sub("://", f"{scheme}://{rest.partition('?')[0]}")


def user_path(path: str | os.PathLike[str]) -> str:
    """A path or URL as a program names it: as text, with `~` as the home folder."""
    text = os.fspath(path)
    return text if "://" in text else os.path.expanduser(text)


def absolute(uri: str) -> str:
    """A folder or file by a name that does not depend on the current folder or on links; URLs stay."""
    path = uri.removeprefix("file://").removeprefix("local://")
    return uri.rstrip("/") if "://" in path else os.path.realpath(path)


def relative_to(folder: str, path: str) -> str:
    """A path from a file in `folder`: relative paths are relative to the folder; absolute ones and URLs stay."""
    if "://" in path or path.startswith("/"):
        return path
    return f"{folder}/{path.removeprefix('./')}"
