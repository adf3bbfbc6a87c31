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
from sapiens_ray.errors import CheckpointError, ImageError
from sapiens_ray.labels import body_parts
from sapiens_ray.tasks.options import ModelOptions

if TYPE_CHECKING:
    import torch

NETWORK_WIDTH, NETWORK_HEIGHT = 768, 1024


class SegOptions(ModelOptions):
    """Options of `task: seg`."""

    task: Literal["seg"]


class Seg:
    """Everything that makes the task segmentation. Holds no model and no state."""

    input_kind = f"squeeze_{NETWORK_HEIGHT}x{NETWORK_WIDTH}"

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

    @property
    def image_columns(self) -> list[str]:
        """Columns that hold an encoded image, for readers that show such columns as pictures."""
        return [self.column]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 BGR to the network's 1024 x 768 x 3 uint8 BGR, bilinear, aspect not kept."""
        return cv2.resize(image, (NETWORK_WIDTH, NETWORK_HEIGHT), interpolation=cv2.INTER_LINEAR)

    def check_output(self, output: Any, batch: int) -> torch.Tensor:
        """The B x 28 x h x w float logits in what the model returned. Raises CheckpointError for anything else."""
        import torch

        classes = len(body_parts().names)
        if isinstance(output, tuple | list) and len(output) == 1:
            output = output[0]
        if not isinstance(output, torch.Tensor):
            raise CheckpointError(f"{self.column}: the model returns {type(output).__name__}, not a tensor of logits")
        if output.dim() != 4 or output.shape[0] != batch or output.shape[1] != classes:
            shape = " x ".join(map(str, output.shape))
            raise CheckpointError(
                f"{self.column}: the model returns {shape} for {batch} images; task seg needs "
                f"{batch} x {classes} x h x w logits. Is this the checkpoint of another task?"
            )
        return output

    def reduce(self, logits: torch.Tensor, width: int, height: int) -> np.ndarray:
        """28 x h x w logits of one image, on the device, to its H x W uint8 class map.

        Raises ImageError if the logits are not all finite: their arg-max would look like labels.
        """
        from sapiens_ray.models.argmax import upsampled_argmax

        if not bool(logits.isfinite().all()):
            raise ImageError("not_finite", "the model's logits hold NaN or infinity")
        return upsampled_argmax(logits.float(), height, width).cpu().numpy()

    def finish(self, class_map: np.ndarray) -> dict[str, Any]:
        """The columns of one row from the class map at original size."""
        counts = np.bincount(class_map.reshape(-1), minlength=1)
        present = np.flatnonzero(counts)
        return {
            self.column: images.encode_png(class_map),
            f"{self.column}_classes": present.tolist(),
            f"{self.column}_area": (counts[present] / class_map.size).astype(np.float32).tolist(),
        }

    def draw(self, photo: np.ndarray, row: dict[str, Any], opacity: float) -> np.ndarray:
        """The panel for the picture: class colours over an h x w x 3 uint8 BGR photo, background included.

        `row` is the finished row; its class map is sampled at the size of the photo given.
        """
        height, width = photo.shape[:2]
        class_map = cv2.resize(images.decode_map(row[self.column]), (width, height), interpolation=cv2.INTER_NEAREST)
        palette = np.array(body_parts().colours, np.uint8)[:, ::-1]  # RGB to BGR
        return cv2.addWeighted(photo, 1.0 - opacity, palette[class_map], opacity, 0.0)
