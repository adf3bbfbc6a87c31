"""Ground truth as one file per image: index PNGs, depth and normal maps, masks. Files are read one at a time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import PurePosixPath

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from sapiens_ray.errors import ConfigError, StorageError, first_line
from sapiens_ray.imaging.images import decode_map
from sapiens_ray.imaging.names import file_names
from sapiens_ray.storage import Folder, translate_errors, walk
from sapiens_ray.tasks.foreground import normalized

PNG_BIT_DEPTH = 24  # place of the byte in a PNG file: signature, length and type of IHDR, width, height, bit depth
ASPECT_TOLERANCE = 0.01  # a map whose aspect differs by more than 1 % from that of the photo is of another photo


class TruthError(ValueError):
    """The ground truth of one image cannot be used. The message names the file."""


class TruthFolder:
    """The files of a folder by the image that they belong to.

    `a/b.png` belongs to the image `a/b.jpg`; where `a/b.jpg` and `a/b.png` are both images, their files are
    `a/b.jpg.png` and `a/b.png.png`. So `export --format masks` names files.
    Raises ConfigError, with `option` in the message, if the folder cannot be listed or has no such file.
    """

    def __init__(self, folder: Folder, suffixes: Sequence[str], option: str) -> None:
        self.folder, self.option = folder, option
        self._files: dict[str, str] = {}
        self._owner: dict[str, str] = {}  # file -> the image it was given to
        with translate_errors(ConfigError, f"{option} {folder.uri}: cannot be listed as a folder"):
            for name, is_file in walk(folder):
                suffix = PurePosixPath(name).suffix.lower()
                if is_file and suffix in suffixes and not PurePosixPath(name).name.startswith("."):
                    self._add(name, name[: -len(suffix)])
        if not self._files:
            raise ConfigError(f"{option} {folder.uri}: holds no {' or '.join(suffixes)} files")

    def _add(self, name: str, stem: str) -> None:
        if stem in self._files:
            raise ConfigError(
                f"{self.option} {self.folder.uri}: {self._files[stem]} and {name} belong to the same image; keep one"
            )
        self._files[stem] = name

    def file_of(self, image_id: str) -> str | None:
        """The file of an image; None if there is none. To be asked once for each row.

        Raises TruthError if the file belongs to an earlier row.
        """
        file = next((self._files[name] for name in file_names(image_id) if name in self._files), None)
        if file is None:
            return None
        if file in self._owner:
            raise TruthError(
                f"{file} belongs to {self._owner[file]} as well; call the files by the full names of the images"
            )
        self._owner[file] = image_id
        return file

    def read(self, file: str) -> bytes:
        """The bytes of a file. Raises TruthError if it cannot be read, StorageError if the storage does not answer."""
        with translate_errors(StorageError, f"cannot read {self.folder.join(file)}"):
            try:
                return self.folder.read(file)
            except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
                raise TruthError(f"{file} cannot be read: {first_line(error)}") from None

    @property
    def unused(self) -> list[str]:
        """The files that belong to no image that was asked for."""
        return [file for file in self._files.values() if file not in self._owner]


def index_map(data: bytes, file: str, width: int, height: int) -> np.ndarray:
    """The class ids of an index PNG, height x width integers: grey values, or palette indices, never colours.

    Raises TruthError for another size or format, and for damage.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (width, height):
                raise TruthError(f"{file} has {image.width}x{image.height} pixels, the photo {width}x{height}")
            if image.mode not in ("L", "P", "I;16", "I", "1"):
                raise TruthError(f"{file} holds colours ({image.mode}): class ids as grey values or palette are needed")
            ids = np.array(image)
            if image.mode == "L":  # Pillow spreads grey values of 2 and 4 bits over 0 to 255
                ids //= 255 // (2 ** data[PNG_BIT_DEPTH] - 1)
    except TruthError:
        raise
    except UnidentifiedImageError:  # its message shows a Python object
        raise TruthError(f"{file} is no PNG") from None
    except Exception as error:  # Pillow raises many kinds of errors on damaged files
        raise TruthError(f"{file} is not a sound PNG: {first_line(error)}") from None
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def float_map(data: bytes, file: str, key: str, channels: int) -> np.ndarray:
    """A map of an .npy or .npz file or a 16-bit grey PNG: H x W (channels 1) or H x W x channels, as stored.

    key: the array of an .npz with several. Raises TruthError for damage, and for other shapes.
    """
    if file.lower().endswith(".png"):
        array = _grey_png(data, file)
    else:
        try:
            loaded = np.load(io.BytesIO(data), allow_pickle=False)
            array = loaded if isinstance(loaded, np.ndarray) else _array_in(loaded, file, key)
        except TruthError:
            raise
        except Exception as error:  # numpy and zipfile raise many kinds of errors on damaged files
            raise TruthError(f"{file} is not a sound array: {first_line(error)}") from None
    if channels == 1 and array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    wanted = "H x W" if channels == 1 else f"H x W x {channels}"
    right = array.ndim == 2 if channels == 1 else array.ndim == 3 and array.shape[-1] == channels
    if not right or not array.size or array.dtype.kind not in "fiu":
        shape = " x ".join(map(str, array.shape))
        raise TruthError(f"{file} holds {shape or 'one'} {array.dtype}; {wanted} numbers are needed")
    return array


def _array_in(arrays: np.lib.npyio.NpzFile, file: str, key: str) -> np.ndarray:
    names = list(arrays.files)
    name = key if key in names else names[0] if len(names) == 1 else None
    if name is None:
        raise TruthError(f"{file} holds the arrays {', '.join(names) or '(none)'}; {key!r} or a single one is needed")
    return np.asarray(arrays[name])


def _grey_png(data: bytes, file: str) -> np.ndarray:
    try:
        array = decode_map(data)
    except Exception:
        raise TruthError(f"{file} is not a sound PNG") from None
    if array.dtype != np.uint16 or array.ndim != 2:
        raise TruthError(f"{file} holds {array.ndim} dimensions of {array.dtype}; a grey PNG of 16 bits is needed")
    return array


def mask(data: bytes, file: str, photo: tuple[int, int], width: int, height: int) -> np.ndarray:
    """A mask (.npy or an image, 0 is background) as height x width bool, resized by nearest neighbour.

    photo: its width and height. Raises TruthError if the mask cannot be read, or has another aspect than the photo.
    """
    png = normalized(data)
    if png is None:
        raise TruthError(f"{file} cannot be read as a mask")
    marked = decode_map(png)
    check_aspect(marked, f"mask {file}", *photo)
    if marked.shape != (height, width):
        marked = cv2.resize(marked, (width, height), interpolation=cv2.INTER_NEAREST)
    inside: np.ndarray = marked > 0
    return inside


def check_aspect(array: np.ndarray, file: str, width: int, height: int) -> None:
    """Raise TruthError if an H x W (x C) map has another aspect than the photo: it is of another photo, or turned."""
    found, wanted = array.shape[1] / array.shape[0], width / height
    if abs(found / wanted - 1) > ASPECT_TOLERANCE:
        raise TruthError(f"{file} has {array.shape[1]}x{array.shape[0]} pixels, another aspect than the photo's "
                         f"{width}x{height}")  # fmt: skip
