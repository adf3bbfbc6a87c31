"""URIs as rows, files and messages may hold them."""

from __future__ import annotations

import re

_SECRET = re.compile(r"([?&][^=&#]*(?:sig|token|secret|credential|passw|key)[^=&#]*)=[^&#]*", re.IGNORECASE)


def readable(text: str) -> str:
    """Text that any file can hold: bytes of a file name that are not UTF-8 become \\xNN."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, which JSON can spell
        return text.encode("utf-8", "backslashreplace").decode()


def shown(uri: str) -> str:
    """A URI, readable, without user, password and what signs or opens it."""
    if "://" in uri:
        uri = _SECRET.sub(r"\1=...", re.sub(r"^(\w+://)[^/@]*@", r"\1", uri))
    return readable(uri)


def shown_in(text: str) -> str:
    """A text whose URIs are as `shown` gives them: libraries quote what they were asked for."""
    return re.sub(r"\w+://[^\s'\"<>]+", lambda found: shown(found[0]), text)
