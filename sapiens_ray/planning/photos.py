"""Photos of rows, read again where the job read them: files, members of tars, rows of Parquet files, on any storage.

The plan says where they are. `uri` of a row would not do: it has lost its signature, and names a place inside a tar.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sapiens_ray.errors import OutputError
from sapiens_ray.imaging.images import shown_size
from sapiens_ray.job.config import Job
from sapiens_ray.output.layout import JOB_FILE
from sapiens_ray.output.record import read_record
from sapiens_ray.planning.columns import readable_columns
from sapiens_ray.planning.plan import Shard, load_plan, read_entries
from sapiens_ray.planning.shards import open_shard
from sapiens_ray.sources import Encoded, Entry, Images, folders
from sapiens_ray.storage import Folder
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.units import Done

END = 1 << 31  # after every index


class PlannedPhotos:
    """The photos of an output. Its storage options are those of the input as well.

    Raises OutputError if the folder holds no plan of a job.
    """

    def __init__(self, output: Folder) -> None:
        plan, record = load_plan(output), read_record(output)
        if plan is None or record is None:
            raise OutputError(
                f"{redact_uri(output.uri)} has no plan.parquet or no job.yaml, which say where its photos are"
            )
        self._shards: list[Shard] = plan.shards
        self._output = Folder(output.uri, output.options)  # all rows of it
        # As the job read them, so that images have the same numbers.
        reading = readable_columns(Job.parse(record["job"], output.join(JOB_FILE)).reading, plan.extra_schema)
        self._reading = replace(reading, storage_options=output.options, kept={})
        self._entries: tuple[int, list[Entry]] = (-1, [])  # of the shard of a folder or list that was read last

    def of_shard(self, number: int, indices: Sequence[int]) -> Iterator[Encoded]:
        """The photos of a shard with these indices, ascending. A photo that is gone or damaged has an `error`.

        A tar is read from its start to the last of them. Of a video, the times of frames are kept for the next call.
        Raises InputError for a tar or Parquet file that changed since it was labelled, and StorageError if the storage
        fails.
        """
        if not indices:
            return
        wanted = set(indices)
        starts = [0, *(index + 1 for index in indices)]
        others = Done(tuple((start, stop) for start, stop in zip(starts, [*indices, END], strict=True) if start < stop))
        images = self._open(self._shards[number], others)
        try:
            for image in images:
                if image.index in wanted:
                    yield image
                if image.index >= indices[-1]:
                    return
        finally:
            images.close()

    def _open(self, shard: Shard, others: Done) -> Images:
        if shard.entries is None:
            return open_shard(shard, others, self._reading, self._output)
        if self._entries[0] != shard.number:
            self._entries = (shard.number, read_entries(self._output, shard))
        return folders.read(self._entries[1], others, self._reading.storage_options)


def is_photo_of(data: bytes | None, width: int, height: int) -> bool:
    """Whether the bytes are an image of this size, as it is shown. Another image of the same size is not noticed."""
    return data is not None and shown_size(data) == (width, height)
