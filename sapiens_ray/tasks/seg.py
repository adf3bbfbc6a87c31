"""Body-part segmentation: 28 logits a pixel at stride 2, to a class map at the size of the photo.

As Sapiens-Lite does it: the photo is squeezed to 768 x 1024 without keeping its aspect, the logits are
upsampled bilinearly to the original size, and the class of a pixel is the arg-max there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import pyarrow as pa

from sapiens_ray import images
from sapiens_ray.labels import body_parts
from sapiens_ray.tasks.dense import SQUEEZE, output_maps, squeeze
from sapiens_ray.tasks.options import ModelOptions

if TYPE_CHECKING:
    import torch

    from sapiens_ray.config import Visualize


class SegOptions(ModelOptions):
    """Options of `task: seg`."""

    task: Literal["seg"]

    @property
    def channels(self) -> int:
        return 28

    def stored_bytes(self, pixels: int) -> int:
        # Order of magnitude, with small stand-in models: photos of 1 to 9 megapixels gave 25 to 90 kB.
        return 60_000


class Seg:
    """Everything that makes the task segmentation. Holds no model and no state."""

    input_kind = SQUEEZE
    needs: tuple[str, ...] = ()

    def __init__(self, options: SegOptions) -> None:
        self.options = options
        self.column = options.column

    @property
    def fields(self) -> list[pa.Field]:
        """Arrow columns: the class map as PNG (uint8, original size), the classes in it, and their shares."""
        return [
            pa.field(self.column, pa.binary()),
            pa.field(f"{self.column}_classes", pa.list_(pa.int8())),
            pa.field(f"{self.column}_area", pa.list_(pa.float32())),
        ]

    @property
    def metadata(self) -> dict[str, Any]:
        """Class names and colours (RGB), in the order of the ids, for the metadata of the output files."""
        table = body_parts()
        return {"class_names": list(table.names), "class_colours_rgb": [list(rgb) for rgb in table.colours]}

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 BGR to the network's 1024 x 768 x 3 uint8 BGR, bilinear, aspect not kept."""
        return squeeze(image)

    def check_output(self, output: Any, batch: int) -> torch.Tensor:
        """The B x 28 x h x w float logits in what the model returned. Raises CheckpointError for anything else."""
        return output_maps(output, batch, len(body_parts().names), self.options, "logits")

    def reduce(self, logits: torch.Tensor, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
        """B x 28 x h x w logits, on the device, to the B class maps, uint8, each of its (width, height)."""
        from sapiens_ray.models.argmax import upsampled_argmax

        pairs = zip(logits, sizes, strict=True)
        return [upsampled_argmax(one.float(), height, width).cpu().numpy() for one, (width, height) in pairs]

    def finish(self, class_maps: list[np.ndarray], row: dict[str, Any]) -> dict[str, Any]:
        """The columns of one row from its class map at original size."""
        (class_map,) = class_maps
        counts = np.bincount(class_map.reshape(-1), minlength=1)
        present = np.flatnonzero(counts)
        return {
            self.column: images.encode_png(class_map),
            f"{self.column}_classes": present.tolist(),
            f"{self.column}_area": (counts[present] / class_map.size).astype(np.float32).tolist(),
        }

    def draw(self, photo: np.ndarray, row: dict[str, Any], settings: Visualize) -> np.ndarray:
        """The picture [photo | class colours over the photo], background included; h x 2w x 3 uint8 BGR.

        photo: h x w x 3 uint8 BGR. `row` is the finished row; its class map is sampled at the size of the photo.
        """
        height, width = photo.shape[:2]
        class_map = cv2.resize(images.decode_map(row[self.column]), (width, height), interpolation=cv2.INTER_NEAREST)
        palette = np.array(body_parts().colours, np.uint8)[:, ::-1]  # RGB to BGR
        overlay = cv2.addWeighted(photo, 1.0 - settings.opacity, palette[class_map], settings.opacity, 0.0)
        return np.hstack([photo, overlay])
