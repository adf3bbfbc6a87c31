"""Decoded frames of a video to BGR, as they are to be shown.

Matrix and range are those that the stream names. Where it names none, they are what players take: BT.709 from 720
lines on and BT.601 below (the matrices of HD and SD television), and the limited range (luma 16 to 235). With
Y in 0..1 and Cb, Cr in -0.5..0.5, R = Y + 2 (1 - Kr) Cr, B = Y + 2 (1 - Kb) Cb, G = (Y - Kr R - Kb B) / (1 - Kr - Kb)
(ITU-R BT.601, BT.709 and BT.2020 give Kr and Kb). Transfer curves stay as they are: HDR is not tone-mapped.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from sapiens_ray.errors import ImageError

if TYPE_CHECKING:
    import av

HD_LINES = 720
BT709, UNKNOWN, RESERVED, BT601 = 1, 2, 3, 6  # AVColorSpace (ITU-T H.273, table 4)
LIMITED, FULL = 1, 2  # AVColorRange
MATRIX: Final = "DISPLAYMATRIX"


class FrameConverter:
    """Converts frames of one video; keeps what FFmpeg prepares for one size and format."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._flags = _flags()

    def to_bgr(self, frame: av.VideoFrame) -> np.ndarray:
        """H x W x 3 uint8 BGR, turned as the display matrix of the frame says; alpha is dropped.

        Levels differ from those of the formula by at most 1, where chroma is stored at full size or does not change
        between neighbours. Raises ImageError for a pixel format that FFmpeg does not convert.
        """
        from av.error import FFmpegError

        if frame.colorspace in (UNKNOWN, RESERVED):
            frame.colorspace = BT709 if frame.height >= HD_LINES else BT601
        if not frame.color_range:
            frame.color_range = FULL if frame.format.name.startswith("yuvj") else LIMITED
        try:
            converted = self._reformatter.reformat(
                frame, format="bgr24", interpolation=self._flags, dst_color_range=FULL, threads=1
            )
        except (FFmpegError, ValueError) as error:
            raise ImageError("not_an_image", f"no colours of {frame.format.name} pixels: {error}"[:300]) from None
        return turned(converted.to_ndarray(), _matrix(frame))


def _flags() -> int:
    """How FFmpeg scales: the same bits on every processor, and chroma at full width. Without that, levels are off by up
    to 3."""
    from av.video.reformatter import Interpolation

    chosen = Interpolation.BILINEAR | Interpolation.ACCURATE_RND
    return int(chosen | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT)


def to_frame(image: np.ndarray) -> av.VideoFrame:
    """An H x W x 3 uint8 BGR image with even sides as a frame of yuv420p: BT.709, limited range, and tagged so."""
    from av import VideoFrame
    from av.video.reformatter import Colorspace

    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
    return frame.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=LIMITED, interpolation=_flags(), threads=1
    )


def _matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """a, b, c, d of the display matrix: a pixel at column x and row y is shown at column a x + c y, row b x + d y."""
    if MATRIX not in frame.side_data:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", frame.side_data[MATRIX])  # type: ignore[typeddict-item]
    return a, b, c, d


def turned(image: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    """An H x W x 3 image turned by a quarter, a half or three quarters, or mirrored, whichever is next to the matrix
    (ISO/IEC 14496-12, 6.2.2: the matrix of a track). matrix: see `_matrix`; None for an upright image."""
    if matrix is None:
        return image
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):  # rows become columns
        image = image.swapaxes(0, 1)
        a, d = c, b
    if a < 0:
        image = image[:, ::-1]
    if d < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)
