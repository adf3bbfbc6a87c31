"""The input sizes of the networks."""

from __future__ import annotations

import cv2
import numpy as np

# Recipes: how inputs are made and outputs are read, as the models were trained for. The checkpoint decides.
LITE = "lite"  # that of Sapiens-Lite: all models but those of Sapiens2
SAPIENS2 = "sapiens2"

NETWORK_HEIGHT, NETWORK_WIDTH = 1024, 768  # for all tasks except features
ENCODER_SIDE = 1024  # the encoder alone takes square inputs
RESIZED = f"resized_{NETWORK_HEIGHT}x{NETWORK_WIDTH}"  # input kind of tasks that take the whole photo
RESIZED_SQUARE = f"resized_{ENCODER_SIDE}x{ENCODER_SIDE}"


def resize_to_network(image: np.ndarray, height: int = NETWORK_HEIGHT, width: int = NETWORK_WIDTH) -> np.ndarray:
    """H x W x 3 uint8 BGR to the network's height x width x 3 uint8 BGR, bilinear, aspect not kept."""
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
