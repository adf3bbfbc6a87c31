"""URIs as rows, files and messages may hold them."""

from __future__ import annotations

import re

_SECRET = re.compile(r"([?&][^=&#]*(?:sig|token|secret|credential|passw|key)[^=&#]*)=[^&#]*", re.IGNORECASE)
_USER = re.compile(r"://[^/?]*@")  # also in the URLs inside a chained one, such as zip://in.jpg::https://me:pw@host/a


def readable(text: str) -> str:
    """Text that any file can hold: bytes of a file name that are not UTF-8 become \\xNN."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, which JSON can spell
        return text.encode("utf-8", "backslashreplace").decode()


def redact_uri(uri: str) -> str:
    """A URI as text, without user, password, signatures and keys."""
    if "://" in uri:
        uri = _SECRET.sub(r"\1=...", _USER.sub("://", uri))
    return readable(uri)


def redact_uris_in(text: str) -> str:
    """A text in which every URI is redacted: libraries quote what they were asked for."""
    return re.sub(r"\w+://[^\s'\"<>]+", lambda found: redact_uri(found[0]), text)


def without_query(uri: str) -> str:
    """A URL without user, password and query, where signatures are; what is not a URL stays as it is."""
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return uri
    return _USER.sub("://", f"{scheme}://{rest.partition('?')[0]}")


def relative_to(folder: str, path: str) -> str:
    """A path as a file beside others names it: relative ones lie below `folder`; absolute ones and URLs stay."""
    if "://" in path or path.startswith("/"):
        return path
    return f"{folder}/{path.removeprefix('./')}"
