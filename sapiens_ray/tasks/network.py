"""The input sizes of the networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

# Names of recipes.
LITE = "lite"  # that of Sapiens-Lite: all models but those of Sapiens2
SAPIENS2 = "sapiens2"


@dataclass(frozen=True)
class Recipe:
    """What a checkpoint says of the images that it was trained on. Tasks make inputs and read outputs accordingly.

    size: height and width of the input in pixels; None: the usual ones of the task.
    """

    name: str = LITE
    size: tuple[int, int] | None = None


NETWORK_HEIGHT, NETWORK_WIDTH = 1024, 768  # for all tasks except features
ENCODER_SIDE = 1024  # the encoder alone takes square inputs
RESIZED = f"resized_{NETWORK_HEIGHT}x{NETWORK_WIDTH}"  # input kind of tasks that take the whole photo
RESIZED_SQUARE = f"resized_{ENCODER_SIDE}x{ENCODER_SIDE}"
PADDED = f"sapiens2_padded_{NETWORK_HEIGHT}x{NETWORK_WIDTH}"  # that of `pad`


def resize_to_network(image: np.ndarray, height: int = NETWORK_HEIGHT, width: int = NETWORK_WIDTH) -> np.ndarray:
    """H x W x 3 uint8 BGR to the network's height x width x 3 uint8 BGR, bilinear, aspect not kept."""
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def stretched_kind(size: tuple[int, int]) -> str:
    """The input kind of `stretch`."""
    return f"sapiens2_stretched_{size[0]}x{size[1]}"


def matted_kind(size: tuple[int, int]) -> str:
    """The input kind of `stretch` with bilinear enlargement."""
    return f"sapiens2_matted_{size[0]}x{size[1]}"


def stretch(image: np.ndarray, size: tuple[int, int], enlarged: int = cv2.INTER_CUBIC) -> np.ndarray:
    """H x W x 3 uint8 BGR to the height x width x 3 of `size`, aspect not kept, as Sapiens2 does for seg: with averages
    if the photo is wider than the input, else bicubic; for mattes bilinear (`enlarged`). Its width alone decides, also
    for its height."""
    height, width = size
    how = cv2.INTER_AREA if image.shape[1] > width else enlarged
    return cv2.resize(image, (width, height), interpolation=how)


class Place(NamedTuple):
    """Where a photo is in an input that keeps its aspect, in pixels of the input."""

    left: int
    top: int
    width: int
    height: int

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def place_of(width: int, height: int) -> Place:
    """Where a photo of this size is in an input of 768 x 1024: as large as fits, in the middle. Sizes and margins are
    cut to whole pixels, in the arithmetic of Sapiens2: 767.9999 becomes 767."""
    scale = min(NETWORK_WIDTH / width, NETWORK_HEIGHT / height)
    across, down = max(1, int(width * scale)), max(1, int(height * scale))
    return Place((NETWORK_WIDTH - across) // 2, (NETWORK_HEIGHT - down) // 2, across, down)


def pad(image: np.ndarray) -> np.ndarray:
    """H x W x 3 uint8 BGR to 1024 x 768 x 3, bilinear, aspect kept, with black margins, as Sapiens2 does for maps."""
    place = place_of(image.shape[1], image.shape[0])
    padded = np.zeros((NETWORK_HEIGHT, NETWORK_WIDTH, 3), np.uint8)
    padded[place.inside] = cv2.resize(image, (place.width, place.height), interpolation=cv2.INTER_LINEAR)
    return padded
