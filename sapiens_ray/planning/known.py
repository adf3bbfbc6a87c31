"""Which URIs are planned already."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


class KnownUris:
    """A set of URIs in 16 bytes per URI: ten million of them as Python strings would take gigabytes."""

    def __init__(self, batches: Iterable[list[bytes]]) -> None:
        self._digests = np.sort(np.concatenate([np.empty(0, "S16"), *map(_digests, batches)]))
        self.count = len(self._digests)

    def among(self, uris: list[bytes]) -> np.ndarray:
        """Which of the URIs are in the set: one bool per URI."""
        digests = _digests(uris)
        places = np.searchsorted(self._digests, digests).clip(max=self.count - 1)
        found: np.ndarray = self._digests[places] == digests
        return found


def _digests(uris: list[bytes]) -> np.ndarray:
    return np.array([hashlib.blake2b(uri, digest_size=16).digest() for uri in uris], "S16")
