"""A picture that a notebook shows by itself."""

from __future__ import annotations

import cv2
import numpy as np


class ShownPicture(np.ndarray):
    """h x w x 3 uint8 BGR, an array like any other; as the last value of a cell, a notebook shows it."""

    def _repr_png_(self) -> bytes | None:
        """What IPython asks for. None for what has become of a picture by computing: a channel, a sum, one pixel."""
        if self.ndim != 3 or self.shape[2] != 3 or self.dtype != np.uint8 or not self.size:
            return None
        done, encoded = cv2.imencode(".png", np.asarray(self))
        return bytes(encoded.data) if done else None
