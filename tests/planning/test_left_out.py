"""What a listing leaves out: hidden files, and videos, for which it says what to do."""

from __future__ import annotations

import pytest

from sapiens_ray.errors import InputError
from sapiens_ray.execution.preflight import prepare_job, save_job
from sapiens_ray.job.config import Job
from sapiens_ray.planning.plan import read_entries
from tests.archives import write_tar
from tests.conftest import write_photos


@pytest.fixture
def photos(tmp_path):
    """Two visible photos; hidden ones in hidden folders and beside them."""
    files = write_photos(tmp_path / "photos", 2)
    for name in (".hidden/a.jpg", ".hidden/deep/b.jpg", "sub/.git/c.jpg", "._000.jpg", ".notes", "sub/.d.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[0].read_bytes())
    return tmp_path / "photos"


def listed(path):
    prepared = prepare_job(Job.load(path))
    save_job(prepared)
    ids = [one.image_id for shard in prepared.plan.shards for one in read_entries(prepared.output, shard)]
    return ids, prepared.growth.left_out


def test_hidden_files_are_left_out_and_counted(write_job, photos):
    ids, left_out = listed(write_job(photos))
    assert ids == ["000.jpg", "001.jpg"]
    assert str(left_out) == "left out: 4 hidden files or folders"  # ._000.jpg, .hidden/, sub/.git/, sub/.d.png


def test_hidden_files_are_listed_if_a_pattern_with_a_dot_asks_for_them(write_job, photos):
    ids, left_out = listed(write_job(photos, name="all", input={"include": ["*.jpg", ".hidden/*.jpg"]}))
    assert ids == [".hidden/a.jpg", ".hidden/deep/b.jpg", "000.jpg", "001.jpg"]
    assert left_out.hidden == 2  # sub/.git/c.jpg and ._000.jpg; no pattern chooses sub/.d.png
    assert listed(write_job(photos, name="git", input={"include": ["*/.git/c*"]}))[0] == ["sub/.git/c.jpg"]


def test_a_hidden_folder_that_is_named_is_read(write_job, photos):
    assert listed(write_job(photos / ".hidden"))[0] == ["a.jpg", "deep/b.jpg"]


def test_hidden_tars_are_left_out(write_job, tmp_path):
    files = write_photos(tmp_path / "photos", 1)
    (tmp_path / "tars").mkdir()
    for name in ("a.tar", "._a.tar"):
        write_tar(tmp_path / "tars" / name, files)
    prepared = prepare_job(Job.load(write_job(tmp_path / "tars")))
    assert [shard.shard_id for shard in prepared.plan.shards] == ["a.tar"]
    assert prepared.growth.left_out.hidden == 1


def test_images_that_are_planned_already_stay(write_job, photos, monkeypatch):
    """In an output that was begun when hidden files were listed."""
    from sapiens_ray.planning import discovery

    path = write_job(photos)
    with monkeypatch.context() as before:
        before.setattr(discovery, "_has_dot", lambda name: False)
        assert len(listed(path)[0]) == 7
    assert len(listed(path)[0]) == 7


def message(path):
    with pytest.raises(InputError) as caught:
        prepare_job(Job.load(path))
    return str(caught.value)


def test_an_input_of_nothing_but_hidden_files_says_so(write_job, tmp_path, photos):
    for file in photos.glob("0*.jpg"):
        file.unlink()
    said = message(write_job(photos))
    assert said.endswith("; 4 hidden files or folders: input.include may ask for it, as '.hidden/*'")


def test_videos_say_what_to_do(write_job, tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("a.MP4", "b.mov", ".c.mp4"):
        (tmp_path / "clips" / name).write_bytes(b"x")
    said = message(write_job(tmp_path / "clips"))
    assert f"in {tmp_path}/clips, but 2 videos: set input.format: video to label their frames" in said
    for file in ("old.avi", "other.MPG"):
        (tmp_path / "clips" / file).write_bytes(b"x")
        assert "is a video of a kind that is not read; rewrap it" in message(write_job(tmp_path / "clips" / file))
    names, left_out = shards(write_job(tmp_path / "clips", name="asked", input={"format": "video"}))
    assert names == ["a.MP4", "b.mov"] and left_out.videos == 2
    said = message(write_job(tmp_path / "clips", name="none", input={"format": "video", "include": ["*.avi"]}))
    assert f"matching *.avi in {tmp_path}/clips, but 1 other video; rewrap it first, such as `ffmpeg" in said


def shards(path):
    found = prepare_job(Job.load(path))
    found.growth.discard()
    return [shard.shard_id for shard in found.plan.shards], found.growth.left_out


def test_choices_of_frames_need_a_video(write_job, photos):
    (photos / "clip.mp4").write_bytes(b"x")
    said = message(write_job(photos, input={"video": {"fps": 1}}))
    assert said.startswith(f"input.video: {photos} holds no video that is read; set input.format: video")
    names, _ = shards(write_job(photos / "clip.mp4", name="one", input={"video": {"fps": 1}}))
    assert names == ["clip.mp4"]


def test_photos_and_videos_that_are_named_share_their_columns(write_job, photos):
    (photos / "clip.mp4").write_bytes(b"x")
    path = write_job([str(photos / "000.jpg"), str(photos / "clip.mp4")])
    prepared = prepare_job(Job.load(path))
    assert prepared.plan.extra_schema.names == ["key", "frame", "time_s"]
    assert [shard.format for shard in prepared.plan.shards] == ["images", "video"]
    assert prepare_job(Job.load(write_job(photos, name="photos"))).plan.extra_schema.names == ["key"]


def test_videos_beside_photos_are_counted(write_job, photos):
    (photos / "clip.mp4").write_bytes(b"x")
    _, left_out = listed(write_job(photos))
    assert str(left_out) == "left out: 4 hidden files or folders, 1 video"
    said = message(write_job(photos, name="png", input={"include": ["*.png"]}))
    assert "no images matching *.png" in said and "ffmpeg" not in said
    said = message(write_job(photos, name="mp4", input={"include": ["*.mp4"]}))
    assert "no images matching *.mp4" in said and "but 1 video: set input.format: video" in said
    ids, left_out = listed(write_job(photos, name="all", input={"include": ["*"]}))
    assert "clip.mp4" not in ids and left_out.videos == 1


def test_labels_of_another_job_below_the_photos_are_not_input(write_job, tmp_path, photos):
    """Whose output it is cannot be seen from its name; that it is one, from its files."""
    save_job(prepare_job(Job.load(write_job(photos, name="first", output={"uri": str(photos / "labels" / "one")}))))
    write_photos(photos / "labels" / "one" / "visualizations", 2)
    ids, left_out = listed(write_job(photos, name="second"))
    assert ids == ["000.jpg", "001.jpg"]
    assert str(left_out) == "left out: 4 hidden files or folders, 1 folder of labels"


def test_a_folder_of_photos_with_labels_beside_them_is_input_of_other_jobs(write_job, tmp_path):
    """Of it only what the other job wrote is left out."""
    write_photos(tmp_path / "tree" / "a", 2)
    write_photos(tmp_path / "tree" / "b", 1)
    both = str(tmp_path / "tree" / "a")
    save_job(prepare_job(Job.load(write_job(both, name="first", output={"uri": both}))))
    for part in ("visualizations", "plan", "sub"):
        write_photos(tmp_path / "tree" / "a" / part, 1)
    ids, left_out = listed(write_job(tmp_path / "tree", name="second"))
    assert ids == ["a/000.jpg", "a/001.jpg", "a/sub/000.jpg", "b/000.jpg"] and not left_out


def test_files_without_a_suffix_are_counted_unless_include_asks_for_them(write_job, tmp_path):
    (photo,) = write_photos(tmp_path / "photos", 1)
    for name in ("a3f5", "sub/b7c2"):
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(photo.read_bytes())
    ids, left_out = listed(write_job(tmp_path / "photos"))
    assert ids == ["000.jpg"] and str(left_out) == "left out: 2 files without a suffix"
    ids, left_out = listed(write_job(tmp_path / "photos", name="all", input={"include": ["*"]}))
    assert ids == ["000.jpg", "a3f5", "sub/b7c2"] and not left_out
    photo.unlink()
    with pytest.raises(
        InputError, match=r"but 2 files without a suffix; if these are photos, set input.include: \['\*'\]"
    ):
        listed(write_job(tmp_path / "photos", name="none"))


def test_photos_that_opencv_does_not_read_are_counted(write_job, tmp_path):
    write_photos(tmp_path / "photos", 1)
    for name in ("a.heic", "b.HEIF", "c.dng"):
        (tmp_path / "photos" / name).write_bytes(b"something")
    ids, left_out = listed(write_job(tmp_path / "photos"))
    assert ids == ["000.jpg"]
    assert str(left_out) == "left out: 3 photos that OpenCV does not read (HEIC, raw, JPEG XL)"
    ids, left_out = listed(write_job(tmp_path / "photos", name="all", input={"include": ["*"]}))
    assert ids == ["000.jpg", "a.heic", "b.HEIF", "c.dng"] and not left_out, "each gets its row"
    (tmp_path / "photos" / "000.jpg").unlink()
    with pytest.raises(InputError, match=r"but 3 photos that .* convert these to JPEG or PNG first$"):
        listed(write_job(tmp_path / "photos", name="none"))


def test_labels_among_the_photos_are_no_input_of_another_job(write_job, tmp_path):
    """Somebody made the output the folder of the photos."""
    photos = tmp_path / "photos"
    write_photos(photos, 2)
    mine = write_job(photos, output={"uri": str(photos)})
    assert listed(mine)[0] == ["000.jpg", "001.jpg"]
    (photos / "data").mkdir()
    (photos / "data" / "s000000.parquet").write_bytes(b"labels")
    (photos / "visualizations" / "seg").mkdir(parents=True)
    (photos / "visualizations" / "seg" / "000.jpg").write_bytes(b"picture")
    assert listed(write_job(photos, name="other"))[0] == ["000.jpg", "001.jpg"]
