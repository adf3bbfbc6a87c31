"""The journey of a folder of videos: what docs/video.md says, and a job that was stopped."""

from __future__ import annotations

import re
import shlex

import av
import pyarrow as pa
import pytest
import yaml

import sapiens_ray as sr
from tests.conftest import ROOT, read_output
from tests.videos import NTSC, packets, read, turn, write_video

PAGE = (ROOT / "docs" / "video.md").read_text()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A video of 40 frames, one that is turned by a quarter, and one with a damaged packet."""
    folder = tmp_path_factory.mktemp("clips") / "clips"
    (folder / "sub").mkdir(parents=True)
    write_video(folder / "a.mp4", 40)
    turn(write_video(folder / "sub" / "turned.mp4", 14), 0, 1, -1, 0)
    broken = write_video(folder / "broken.mp4", 30)
    data = bytearray(broken.read_bytes())
    _, position, size = packets(broken)[13]
    data[position : position + size] = bytes(size)
    broken.write_bytes(data)
    (folder / "notes.txt").write_text("no video")
    return folder


def test_what_the_page_about_videos_says(cluster, model, clips, command, monkeypatch):
    """The job of the page, with another model, and its commands, one after the other."""
    monkeypatch.chdir(clips.parent)
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    job = yaml.safe_load(text)
    assert job["input"]["uri"] == "clips/" and job["input"]["video"] == {"fps": 10}
    job["tasks"][0] |= {"checkpoint": str(model), "mode": "float32"}
    (clips.parent / "clips.yaml").write_text(yaml.safe_dump(job))
    printed = {}
    for line in "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).splitlines():
        arguments = shlex.split(line, comments=True)
        done = command(*arguments[1:])
        assert arguments[0] == "sapiens-ray" and done.code == 0, f"{line}\n{done.text}"
        printed[arguments[1]] = done.text
    # 40 frames at 30000/1001 per second end after 1.33 s: 14 points; 30 after 1.001 s: 11; 14 after 0.47 s: 5.
    assert "30 in 3 shards (video)" in printed["check"]
    rows = read_output("labels/clips").to_pylist()
    expected = [max(n for n in range(40) if n * 1001 * 10 <= tick * 30000) for tick in range(14)]
    assert [row["frame"] for row in rows[:14]] == expected
    assert [row["time_s"] for row in rows[:14]] == [float(n / NTSC) for n in expected]
    assert rows[3]["image_id"] == f"a.mp4/{expected[3]:08d}"
    assert (rows[-1]["width"], rows[-1]["height"]) == (96, 160)
    bad = [(row["image_id"], row["error_kind"]) for row in rows if row["error_kind"]]
    frames, _ = read(clips / "broken.mp4", fps=10)
    assert bad == [(f"broken.mp4/{image.extra['frame']:08d}", "corrupt") for image in frames if image.error]
    assert len(bad) == 4 and bad[0][0] == "broken.mp4/00000014", bad  # packet 13 and what needs it, up to 23
    assert bad[0][0] in printed["status"]
    assert "30 images, 4 errors" in printed["report"]
    page = (clips.parent / "report.html").read_text()
    assert "a.mp4/00000003" in page and "could not be read" not in page
    assert "26 images exported, 4 error rows skipped" in printed["export"]
    with av.open("films/seg/broken.mp4") as film:
        times = [float(frame.pts * frame.time_base) for frame in film.decode(video=0)]
    shown = [row["time_s"] for row in rows if row["image_id"].startswith("broken") and not row["error_kind"]]
    assert times == pytest.approx(shown, abs=1e-4)
    with av.open("films/seg/sub/turned.mp4") as film:
        assert len(list(film.decode(video=0))) == 5


def test_a_stopped_job_ends_with_the_same_labels(cluster, write_job, clips):
    """A trial begins in the middle of a video; the run of the whole job seeks there, and labels what is left."""
    reading = {"format": "video", "include": ["*.mp4"]}
    settings = {"input": reading, "unit_size": 4, "output": {"visualize": {"fraction": 0}}}
    at_once = write_job(clips, name="once", **settings)
    assert sr.run(sr.Job.load(at_once)).images == 84
    in_parts = sr.Job.load(write_job(clips, name="parts", **settings))
    sr.run(in_parts, limit=22)
    sr.run(in_parts)
    folders = [at_once.parent / f"{name}-out" for name in ("once", "parts")]
    tables = [read_output(folder).sort_by([("shard", "ascending"), ("index", "ascending")]) for folder in folders]
    assert tables[0].equals(tables[1])
    kinds = [row["error_kind"] for row in tables[0].to_pylist()]
    assert kinds.count("corrupt") == sum(kind is not None for kind in kinds) > 5
    assert tables[0].schema.field("frame").type == pa.int64()
