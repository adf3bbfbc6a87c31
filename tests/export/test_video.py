"""Pictures as videos again: times, sizes, frames without a picture. The outputs are made without a job."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest

from sapiens_ray.errors import ConfigError, OutputError
from sapiens_ray.export.video import export_video
from sapiens_ray.imaging.video_pixels import FrameConverter
from sapiens_ray.job.config import Job
from sapiens_ray.output.reading import chosen_rows
from sapiens_ray.output.schema import output_schema
from sapiens_ray.output.writing import write_unit
from sapiens_ray.planning.plan import Plan, Shard, save_plan
from sapiens_ray.sources.video import COLUMNS
from sapiens_ray.storage import Folder
from sapiens_ray.tasks import make_task
from sapiens_ray.units import Unit

TIMES = [2.0, 2.1, 2.15, 3.0, 3.5, 4.0]


def write_frames(folder, videos, tasks=("seg",), times=TIMES, columns=COLUMNS):
    """An output with the frames of videos. videos: the colour of each picture by the video's name; None for an error
    row, "" for a frame without a picture."""
    output = Folder(str(folder))
    entries = [{"task": "seg", "name": name, "checkpoint": "/m/seg.pt2"} for name in tasks]
    job = Job.parse({"input": {"uri": "/v"}, "output": {"uri": str(folder)}, "tasks": entries})
    extra = pa.schema([("key", pa.string()), *columns.items()])
    schema = output_schema([make_task(options) for options in job.tasks], extra, {})
    save_plan(Plan([Shard(n, "video", f"/v/{one}", one) for n, one in enumerate(videos)], 64, extra), output)
    for shard, (video, colours) in enumerate(videos.items()):
        names = [f"{video}/{number:08d}.jpg" for number in range(len(colours))]
        rows = {name: [None] * len(colours) for name in schema.names} | {
            "image_id": [name.removesuffix(".jpg") for name in names],
            "index": list(range(len(colours))),
            "uri": [f"/v/{video}#{number}" for number in range(len(colours))],
            "error_kind": [None if colour is not None else "corrupt" for colour in colours],
            "frame": list(range(len(colours))),
            "time_s": times[: len(colours)],
        }
        prefix = "" if len(tasks) == 1 else f"{tasks[0]}/"
        rows["visualization"] = [
            f"visualizations/{prefix}{name}" if colour else None for name, colour in zip(names, colours, strict=True)
        ]
        table = pa.table({name: pa.array(rows[name], schema.field(name).type) for name in schema.names})
        write_unit(Unit(shard, 0, True, table.drop_columns(["shard"])), [], schema, output)
        for number, task in enumerate(tasks):
            for name, colour in zip(names, colours, strict=True):
                if colour:
                    size = (96, 64) if isinstance(colour, tuple) else colour.shape[1::-1]
                    picture = np.full((size[1], size[0], 3), np.roll(colour, number), np.uint8)
                    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
                    output.write(f"visualizations/{'' if len(tasks) == 1 else f'{task}/'}{name}", data)
    return output


def shown(path):
    """(time, BGR of the middle) of every frame, and the length in seconds."""
    converter = FrameConverter()
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        frames = [
            (
                float(one.pts * one.time_base),
                converter.to_bgr(one)[one.height // 2, one.width // 2].astype(int).tolist(),
            )
            for one in film.decode(stream)
        ]
        return frames, float(stream.duration * stream.time_base)


def near(colour, expected):
    return np.abs(np.array(colour) - expected).max() <= 6


RED, BLUE, GREEN = (40, 40, 200), (200, 40, 40), (40, 180, 40)


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_pictures_are_shown_at_their_times(tmp_path, codec):
    output = write_frames(tmp_path / "out", {"sub/a.mp4": [RED, BLUE, GREEN, RED, BLUE, GREEN]})
    done = export_video(output, Folder(str(tmp_path / "to")), {"codec": codec, "column": None})
    assert (done.images, done.skipped, done.notes, done.left_out) == (6, 0, [], {})
    frames, length = shown(tmp_path / "to" / "seg" / "sub" / "a.mp4")
    assert [time for time, _ in frames] == pytest.approx([0, 0.1, 0.15, 1, 1.5, 2], abs=1e-4)
    assert all(near(colour, want) for (_, colour), want in zip(frames, [RED, BLUE, GREEN] * 2, strict=True)), frames
    assert length == pytest.approx(2.5, abs=1e-3)  # the last picture stays as long as the one before


def test_frames_without_a_picture_show_the_one_before(tmp_path):
    output = write_frames(tmp_path / "out", {"a.mp4": [None, RED, None, "", BLUE, None]})
    done = export_video(output, Folder(str(tmp_path / "to")))
    assert (done.images, done.skipped) == (3, 3)
    assert done.notes == ["seg: 4 of 6 frames have no picture; the one before is shown"]
    frames, length = shown(tmp_path / "to" / "seg" / "a.mp4")
    expected = [(0, (0, 0, 0)), (0.1, RED), (1.5, BLUE), (2.0, BLUE)]
    assert [time for time, _ in frames] == pytest.approx([time for time, _ in expected], abs=1e-4)
    assert all(near(colour, want) for (_, colour), (_, want) in zip(frames, expected, strict=True)), frames
    assert length >= 2


def test_other_sizes_are_fitted(tmp_path):
    output = write_frames(tmp_path / "out", {"a.mp4": [RED, BLUE]})
    tall = np.full((201, 51, 3), GREEN, np.uint8)
    output.write("visualizations/a.mp4/00000001.jpg", cv2.imencode(".jpg", tall)[1].tobytes())
    export_video(output, Folder(str(tmp_path / "to")))
    with av.open(str(tmp_path / "to" / "seg" / "a.mp4")) as film:
        first, second = (FrameConverter().to_bgr(frame) for frame in film.decode(video=0))
    assert first.shape == second.shape == (64, 96, 3)
    assert near(second[32, 48], GREEN) and near(second[32, 10], (0, 0, 0)) and near(second[32, 85], (0, 0, 0))


def test_a_picture_may_be_shown_for_hours(tmp_path):
    """An MP4 file holds 31 bits of 1/90000 s: 6.6 hours. Where times are wrong, it is a week."""
    times = [0.0, 1.0, 9 * 3600.0, 9 * 3600.0 + 1, 1e12, 1e12 + 1]
    output = write_frames(tmp_path / "out", {"a.mp4": [RED, BLUE, GREEN, RED, BLUE, GREEN]}, times=times)
    export_video(output, Folder(str(tmp_path / "to")))
    frames, _ = shown(tmp_path / "to" / "seg" / "a.mp4")
    assert [time for time, _ in frames[:6]] == pytest.approx([0, 1, 10801, 21601, 32400, 32401], abs=1e-3)
    assert all(near(colour, BLUE) for _, colour in frames[1:4]) and near(frames[4][1], GREEN)
    assert frames[-1][0] - frames[-2][0] == pytest.approx(1) and near(frames[-1][1], GREEN)
    assert frames[-2][0] == pytest.approx(32401 + 56 * 10800) and near(frames[-2][1], BLUE)


def test_columns_of_other_meaning_are_no_frames(tmp_path):
    to = Folder(str(tmp_path / "to"))
    for name, columns in (("half", {"frame": pa.int64()}), ("text", {**COLUMNS, "time_s": pa.string()})):
        times = ["noon", "one"]
        other = write_frames(tmp_path / name, {"a.mp4": [RED, BLUE]}, times=times, columns=columns)
        with pytest.raises(OutputError, match="holds no frames of videos"):
            export_video(other, to)
    output = write_frames(tmp_path / "out", {"a.mp4": [RED, BLUE]}, times=[0.0, None])
    assert export_video(output, to).images == 1


def test_every_task_has_its_video(tmp_path):
    output = write_frames(tmp_path / "out", {"a.mp4": [RED, BLUE], "a.mov": [GREEN, ""]}, tasks=("one", "two"))
    done = export_video(output, Folder(str(tmp_path / "to")))
    files = sorted(str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*.mp4"))
    assert files == ["one/a.mov.mp4", "one/a.mp4.mp4", "two/a.mov.mp4", "two/a.mp4.mp4"]
    assert done.images == 4
    assert near(shown(tmp_path / "to" / "two" / "a.mov.mp4")[0][0][1], np.roll(GREEN, 1))
    export_video(output, Folder(str(tmp_path / "only")), {"column": "two", "codec": "h264"})
    assert [path.name for path in (tmp_path / "only").iterdir()] == ["two"]


def test_a_condition_chooses_pictures(tmp_path):
    output = write_frames(tmp_path / "out", {"a.mp4": [RED, BLUE, GREEN], "b.mp4": [RED, RED, RED]})
    export_video(chosen_rows(output, "frame > 0 and image_id like 'a%'"), Folder(str(tmp_path / "to")))
    assert [path.name for path in (tmp_path / "to" / "seg").iterdir()] == ["a.mp4"]
    assert [round(time, 3) for time, _ in shown(tmp_path / "to" / "seg" / "a.mp4")[0]] == [0, 0.05]


def test_what_cannot_be_exported(tmp_path):
    to = Folder(str(tmp_path / "to"))
    output = write_frames(tmp_path / "out", {"a.mp4": ["", None]})
    with pytest.raises(OutputError, match=r"holds no pictures of frames; see output\.visualize\.fraction"):
        export_video(output, to)
    with pytest.raises(ConfigError, match="--column pose: the tasks are seg"):
        export_video(output, to, {"column": "pose", "codec": "h264"})
    with pytest.raises(ConfigError, match="--codec gif: this FFmpeg cannot write it; it can write h264, vp9"):
        export_video(output, to, {"column": None, "codec": "gif"})
    assert not (tmp_path / "to").exists()
