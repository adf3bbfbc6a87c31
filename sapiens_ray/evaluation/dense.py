"""What the tasks with one map per image share: match files, measure image by image, count what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sapiens_ray.errors import ConfigError
from sapiens_ray.evaluation.request import Request
from sapiens_ray.evaluation.result import Failed, Images
from sapiens_ray.evaluation.truth_files import TruthError, TruthFolder
from sapiens_ray.evaluation.truth_files import mask as read_mask
from sapiens_ray.storage import Folder
from sapiens_ray.units import Row

Measure = Callable[[Row, bytes, str], np.ndarray]  # row, bytes and name of its ground truth -> its numbers


class LabelsError(ValueError):
    """The labels of one image cannot be compared."""


@dataclass(frozen=True)
class Table:
    """The numbers of every image that was measured, N x M float64, in the order of the rows."""

    images: Images
    values: np.ndarray


def measure_images(source: Folder, column: str, truth: TruthFolder, measure: Measure, request: Request) -> Table:
    """Measure every row that has labels and ground truth, with one map of the ground truth in memory at a time.

    What raises TruthError or LabelsError becomes an entry of `images.failed`. Raises ConfigError if nothing could be
    measured.
    """
    images = Images()
    values = []
    for row in request.rows(source, ["image_id", "width", "height", "error_kind", column]):
        images.rows += 1
        image_id = row["image_id"]
        try:
            file = truth.file_of(image_id)
            if row["error_kind"] is not None:
                images.error_rows += 1
                images.error_rows_with_truth += file is not None
            elif file is None:
                images.has_no_truth(image_id)
            else:
                values.append(measure(row, truth.read(file), file))
        except (TruthError, LabelsError) as error:
            images.failed.append(Failed(image_id, str(error)))
    images.evaluated = len(values)
    images.have_no_row(truth.unused)
    if not values:
        raise ConfigError(f"{truth.option} {truth.folder.uri}: {_why_nothing(images)}")
    return Table(images, np.array(values, np.float64))


def _why_nothing(images: Images) -> str:
    """Why no image could be measured."""
    if images.failed:
        first = images.failed[0]
        return f"no image can be compared ({len(images.failed)} tried); {first.image_id}: {first.error}"
    if images.error_rows == images.rows:
        return f"all {images.rows} rows of the output are error rows"
    if images.error_rows_with_truth:
        return (
            f"rows with ground truth: {images.error_rows_with_truth}, all of them error rows; rows with labels, but "
            f"without ground truth: {images.without_truth}"
        )
    row, file = images.without_truth_examples[0], images.truth_without_row_examples[0]
    return f"no file belongs to an image of the output: the images are called like {row}, the files like {file}"


def finite(labels: np.ndarray) -> np.ndarray:
    """The labels that count, of any shape. Raises LabelsError if one of them is NaN or infinite: it would make some
    metrics NaN, and count as wrong, unseen, in others."""
    if not np.isfinite(labels).all():
        raise LabelsError("its labels are not finite")
    return labels


@dataclass(frozen=True)
class Masks:
    """The pixels that count, from `--mask`; all of them without a folder."""

    folder: TruthFolder | None

    @classmethod
    def of(cls, request: Request) -> Masks:
        """Raises ConfigError if the folder of masks cannot be listed."""
        if request.mask is None:
            return cls(None)
        return cls(TruthFolder(request.mask, (".png", ".npy"), "--mask"))

    def inside(self, row: Row, width: int, height: int) -> np.ndarray:
        """height x width bool. Raises TruthError if the mask of the image is missing, cannot be read, or has another
        aspect than the photo."""
        if self.folder is None:
            return np.ones((height, width), bool)
        file = self.folder.file_of(row["image_id"])
        if file is None:
            raise TruthError(f"it has no mask in {self.folder.folder.uri}")
        return read_mask(self.folder.read(file), file, (row["width"], row["height"]), width, height)
