"""What a listing of the input leaves out, counted, and what it says if nothing is left."""

from __future__ import annotations

from dataclasses import dataclass

from sapiens_ray.job.config import Input
from sapiens_ray.output.summary import counted
from sapiens_ray.sources import SOURCES, VIDEO, EntrySource, format_of
from sapiens_ray.storage.uris import redact_uri

OTHER_VIDEOS = (".avi", ".mpg", ".mpeg", ".wmv")  # of which not every packet has a time
OTHER_PHOTOS = (".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".psd")
FRAMES = "set input.format: video to label their frames"
REWRAP = "rewrap it first, such as `ffmpeg -i a.avi -c copy a.mkv`"


@dataclass
class LeftOut:
    """Counts what a listing found and left out. hidden: images and folders whose name begins with a dot. photos: in
    formats that OpenCV does not read. outputs: folders with labels of this package."""

    hidden: int = 0
    videos: int = 0
    photos: int = 0
    unnamed: int = 0
    outputs: int = 0

    def nothing_found(self, settings: Input) -> str:
        """The message for an input without images."""
        formats = {format_of(uri) for uri in settings.uri}
        if all(name is not None and isinstance(SOURCES[name], EntrySource) for name in formats):
            return f"input.uri: no image is named in {', '.join(map(redact_uri, settings.uri))}"
        if settings.format == VIDEO:
            message = f"input.uri: no videos ({', '.join(SOURCES[VIDEO].suffixes)})"
            if settings.include:
                message += f" matching {', '.join(settings.include)}"
            message += f" in {', '.join(map(redact_uri, settings.uri))}"
            return f"{message}, but {counted(self.videos, 'other video')}; {REWRAP}" if self.videos else message
        kinds = f"matching {', '.join(settings.include)}" if settings.include else "with a suffix that OpenCV reads"
        message = f"input.uri: no images {kinds} in {', '.join(map(redact_uri, settings.uri))}"
        if self.videos:
            message += f", but {counted(self.videos, 'video')}: {FRAMES}"
        if self.photos:
            message += f", but {self._photos}; convert these to JPEG or PNG first"
        if self.unnamed:
            message += f", but {self._unnamed}; if these are photos, set input.include: ['*']"
        if self.hidden:
            message += f"; {self._hidden}: input.include may ask for it, as '.hidden/*'"
        return message

    @property
    def _hidden(self) -> str:
        return counted(self.hidden, "hidden file or folder", "hidden files or folders")

    @property
    def _photos(self) -> str:
        return f"{counted(self.photos, 'photo')} that OpenCV does not read (HEIC, raw, JPEG XL)"

    @property
    def _unnamed(self) -> str:
        return counted(self.unnamed, "file without a suffix", "files without a suffix")

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def __str__(self) -> str:
        outputs = counted(self.outputs, "folder of labels", "folders of labels")
        kinds = (
            (self.hidden, self._hidden),
            (self.videos, counted(self.videos, "video")),
            (self.photos, self._photos),
            (self.unnamed, self._unnamed),
            (self.outputs, outputs),
        )
        return f"left out: {', '.join(text for count, text in kinds if count)}"
