"""What libjpeg prints to stderr while it decodes: it says there, and nowhere else, that data is damaged.

After a damaged place libjpeg goes on with grey, or with stripes, and OpenCV returns that as a photo.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from typing import BinaryIO

# Of libjpeg's warnings (jerror.h), those after which pixels are wrong. Others are harmless, such as an unknown revision
# of the header.
_DAMAGE = re.compile(
    rb"bad Huffman code|premature end of data segment|instead of RST|Premature end of JPEG file|"
    rb"Inconsistent progression|bad progression|bad arithmetic code"
)
# Encoders fill up with some bytes before the end. Where hundreds are left over, the decoder had lost its place.
_LEFT_OVER = re.compile(rb"(\d+) extraneous bytes before marker 0xd9")
MOST_LEFT_OVER = 64


class _Stderr:
    """File descriptor 2, which belongs to the whole process: one thread at a time may listen to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[list[str]]:
        """Inside the block, keep what is printed to stderr. Afterwards the list holds the complaints about damage, and
        everything else is printed."""
        found: list[str] = []
        with self._lock:
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile()  # noqa: SIM115
                heard, kept = self._file.fileno(), os.dup(2)
            except OSError:  # no stderr, or no place for a file: then nothing is heard
                yield found
                return
            os.dup2(heard, 2)
            try:
                yield found
            finally:
                os.dup2(kept, 2)
                if length := os.fstat(heard).st_size:
                    lines = os.pread(heard, length, 0).splitlines(keepends=True)
                    os.ftruncate(heard, 0)
                    os.lseek(heard, 0, os.SEEK_SET)
                    found += [line.decode("ascii", "replace").strip() for line in lines if _is_damage(line)]
                    os.write(kept, b"".join(line for line in lines if not _is_damage(line)))
                os.close(kept)


def _is_damage(line: bytes) -> bool:
    left_over = _LEFT_OVER.search(line)
    return _DAMAGE.search(line) is not None or (left_over is not None and int(left_over[1]) > MOST_LEFT_OVER)


complaints = _Stderr().listening
