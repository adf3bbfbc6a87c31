"""Pictures of style explained, looked at from outside: what can be read off their pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pyarrow as pa
import pytest

from sapiens_ray.engine.assemble import make_unit
from sapiens_ray.engine.draw import draw
from sapiens_ray.engine.prepare import prepare
from sapiens_ray.imaging.images import encode_png, picture_size
from sapiens_ray.imaging.maps import decode_npy, encode_npy
from sapiens_ray.labels import body_parts, keypoints
from sapiens_ray.sources import Encoded
from sapiens_ray.tasks import AnyTask, skeleton
from sapiens_ray.tasks.depth import Depth, DepthOptions
from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.tasks.normal import Normal, NormalOptions, sphere
from sapiens_ray.tasks.pose import Pose, PoseOptions
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.seg import Seg, SegOptions
from sapiens_ray.units import Row, set_column
from tests.outputs import certain

GREEN = (37, 200, 90)  # of photos in these tests: no other colour of a picture is exactly this one
CLASSES = {0: 60, 22: 25, 3: 10, 10: 4, 27: 1}  # class: its rows of 100
SEG = Seg(SegOptions(task="seg", checkpoint="x"))
DEPTH = Depth(DepthOptions(task="depth", checkpoint="x", mask=Mask(source="seg", seg="seg")))
NORMAL = Normal(NormalOptions(task="normal", checkpoint="x", mask=Mask(source="seg", seg="seg")))
POSE = Pose(PoseOptions(task="pose", keypoints=17, checkpoint="x"))
TASKS = [SEG, DEPTH, NORMAL, POSE]
PANELS = {"seg": 2, "depth": 3, "normal": 2, "persons": 1}


DEFAULT = Visualize()


def picture(task: AnyTask, row: Row, settings: Visualize = DEFAULT) -> np.ndarray:
    """The picture over a green photo, at the size at which a job draws it."""
    width, height = picture_size(row["width"], row["height"], settings.max_side, settings.min_side)
    return task.draw(np.full((height, width, 3), GREEN, np.uint8), row, settings)


def row_of(width: int, height: int, classes: dict[int, int] = CLASSES) -> Row:
    """A row of all tasks: stripes of classes, depth that grows to the right, slanted normals, two persons."""
    row: Row = {"width": width, "height": height}
    stripes = np.repeat(list(classes), list(classes.values())).astype(np.uint8)[:, None].repeat(100, 1)
    row |= SEG.finish([certain(cv2.resize(stripes, (width, height), interpolation=cv2.INTER_NEAREST))], row)
    row |= DEPTH.finish([np.tile(np.linspace(0.25, 0.75, 768, dtype=np.float32), (1024, 1))], row)
    row |= NORMAL.finish([np.tile(np.float32([0.6, 0, 0.8]), (512, 384, 1))], row)
    points = np.random.default_rng(0).uniform(0.2, 0.8, (2, 17, 2)) * (width, height)
    box = [0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height]
    row["persons"] = [
        {"box": box, "box_score": None, "keypoints": person.tolist(), "scores": [0.9] * 17} for person in points
    ]
    return row


def photo_at(drawn: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width and height of the photo in a picture."""
    rows, columns = np.nonzero((drawn == GREEN).all(-1))
    return columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()


def key_of(drawn: np.ndarray, width: int, panels: int) -> np.ndarray:
    """What lies right of the panels, of which the first shows the photo."""
    margin = photo_at(drawn)[0]
    return drawn[:, margin + panels * (width + margin) :]


def colours_in(area: np.ndarray, table: list[tuple[int, int, int]], least: int = 80) -> list[int]:
    """Which RGB colours fill at least so many pixels, from the top down."""
    found = {}
    for number, (red, green, blue) in enumerate(table):
        rows = np.nonzero((area == (blue, green, red)).all(-1))[0]
        if len(rows) >= least:
            found[number] = rows.min()
    return sorted(found, key=found.__getitem__)


SIZES = [(4000, 3000), (300, 200), (200, 1000), (1000, 60), (40, 1200), (1, 1)]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.column)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_titles_are_readable_at_any_size(size, task):
    row = row_of(*size) | {"persons": []}
    drawn = picture(task, row)
    x, y, _, _ = photo_at(drawn)
    title = (drawn[:y, x:] < 128).all(-1)
    height = np.count_nonzero(title.any(1))
    assert height >= 11 and height >= max(drawn.shape[1] / 200, drawn.shape[0] / 120)
    assert height <= drawn.shape[0] / 4, "the photo is larger than its title"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.column)
def test_panels_have_the_size_of_the_settings(task):
    panels = PANELS[task.column]
    for size, settings, wanted in (
        ((400, 300), Visualize(), (480, 360)),
        ((400, 300), Visualize(max_side=100), (100, 75)),
        ((2000, 1000), Visualize(), (1280, 640)),
        ((600, 500), Visualize(), (600, 500)),
    ):
        drawn = picture(task, row_of(*size) | {"persons": []}, settings)
        assert drawn.shape[1] > panels * wanted[0] and drawn.shape[0] > wanted[1]
        if task is not POSE:  # words lie over its photo
            assert photo_at(drawn)[2:] == wanted or task is SEG
        lite = picture(task, row_of(*size) | {"persons": []}, settings.model_copy(update={"style": "lite"}))
        smaller = (min(size[0], wanted[0]), min(size[1], wanted[1]))
        assert lite.shape == (smaller[1], panels * smaller[0], 3)


@pytest.mark.parametrize("size", [(4000, 3000), (300, 200), (200, 1000)], ids=str)
def test_the_legend_of_seg_names_the_classes_that_occur_largest_first(size):
    drawn = picture(SEG, row_of(*size))
    width = picture_size(*size, 1280, 480)[0]
    key = key_of(drawn, max(width, 115), 2) if size == (200, 1000) else key_of(drawn, width, 2)
    assert colours_in(key, list(body_parts().colours)) == [22, 3, 10, 27]
    share = colours_in(drawn, [tuple(body_parts().colours[22])])
    assert share == [0]


def test_the_legend_of_seg_shows_shares_of_the_row():
    half, other = row_of(800, 600, {0: 50, 22: 50}), row_of(800, 600, {0: 50, 22: 50})
    other["seg_area"] = [0.5, 0.25]
    first, second = picture(SEG, half), picture(SEG, other)
    changed = np.nonzero((first != second).any(-1))
    assert changed[1].min() > 2 * 800, "nothing but a number changes"
    assert np.ptp(changed[0]) < 40


def test_all_classes_fit_beside_a_small_photo():
    classes = dict.fromkeys(range(28), 10)
    drawn = picture(SEG, row_of(320, 320, classes))
    key = key_of(drawn, 480, 2)
    assert sorted(colours_in(key, list(body_parts().colours))) == list(range(1, 28))
    assert drawn.shape[0] < 600


def test_the_background_of_seg_is_the_photo():
    drawn = picture(SEG, row_of(800, 600))
    x, y, _, _ = photo_at(drawn)
    overlay = drawn[y : y + 600, 2 * x + 800 : 2 * x + 1600]
    assert (overlay[:360] == GREEN).all() and not (overlay[361:] == GREEN).all(-1).any()
    red, green, blue = body_parts().colours[22]
    assert np.abs(overlay[400, 5].astype(int) - [(37 + blue) / 2, (200 + green) / 2, (90 + red) / 2]).max() <= 1
    nobody = picture(SEG, row_of(800, 600, {0: 100}))
    assert (nobody[y : y + 600, 2 * x + 800 : 2 * x + 1600] == GREEN).all()
    assert key_of(nobody, 800, 2).min() < 80, "words say that there are no body parts"
    assert colours_in(key_of(nobody, 800, 2), list(body_parts().colours)) == []


def test_the_scale_bar_of_depth_gives_the_values_of_the_colours():
    row = row_of(800, 600)
    drawn = picture(DEPTH, row)
    x, y, _, _ = photo_at(drawn)
    panel, key = drawn[y : y + 600, 2 * x + 800 : 2 * x + 1600], key_of(drawn, 800, 3)
    tops, columns = np.nonzero((key == cv2.applyColorMap(np.uint8([[255]]), cv2.COLORMAP_INFERNO)[0, 0]).all(-1))
    bar = key[tops.min() :, columns.min()]
    bar = bar[: np.flatnonzero((bar == 255).all(-1))[0]]
    depth = cv2.resize(np.tile(np.linspace(0.25, 0.75, 768, dtype=np.float32), (1024, 1)), (800, 600))[500]
    for place in (10, 200, 400, 600, 790):
        share = (depth[place] - row["depth_min"]) / (row["depth_max"] - row["depth_min"])
        assert np.abs(bar[round(share * (len(bar) - 1))].astype(int) - panel[500, place]).max() <= 6, place
    doubled = row | {"depth": encode_npy(2 * decode_npy(row["depth"]))}
    other = picture(DEPTH, doubled | {"depth_min": 2 * row["depth_min"], "depth_max": 2 * row["depth_max"]})
    changed = np.nonzero((drawn != other).any(-1))[1]
    assert changed.size and changed.min() > 3 * 800, "only the numbers at the ends change"


def test_depth_without_foreground_or_mask():
    nobody = picture(DEPTH, row_of(800, 600, {0: 100}))
    assert key_of(nobody, 800, 3).min() < 80 and not colours_in(key_of(nobody, 800, 3), [(252, 255, 164)])
    task = Depth(DepthOptions(task="depth", checkpoint="x", mask=Mask(source="folder", folder="f")))
    missing = picture(task, row_of(800, 600) | {"depth_min": None, "depth_max": None})
    x, y, _, _ = photo_at(missing)
    whole = missing[y : y + 600, 2 * x + 800 : 2 * x + 1600]
    assert not (whole == 100).all(-1).any(), "without a mask the whole photo is drawn, with its own values"
    assert len(colours_in(key_of(missing, 800, 3), [(252, 255, 164)], 10)) == 1


@pytest.mark.parametrize("front", [True, False])
def test_the_sphere_shows_the_colour_of_every_direction(front):
    size = 20
    block = sphere(size, front)
    coloured = np.ptp(block.astype(int), axis=-1) > 40
    rows, columns = (np.flatnonzero(coloured.any(axis)) for axis in (1, 0))
    radius = 4 * size
    assert abs(np.ptp(rows) + 1 - 2 * radius) <= 3 and abs(np.ptp(columns) + 1 - 2 * radius) <= 3
    middle = (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2
    for x, y in ((0.5, 0.5), (-0.5, 0.5), (0.7, -0.2), (-0.3, -0.8), (0, 0.6)):
        z = np.sqrt(1 - x * x - y * y) * (1 if front else -1)
        pixel = block[round(middle[1] - y * radius), round(middle[0] + x * radius)]
        assert np.abs(pixel[::-1] - (np.array([x, y, z]) + 1) / 2 * 255).max() < 6, (x, y)


def test_the_sphere_shows_the_half_that_the_picture_shows():
    row = row_of(800, 600)
    away = row | {"normal": encode_npy(np.tile(np.float32([0.6, 0, -0.8]), (512, 384, 1)))}
    for one, front in ((row, True), (away, False)):
        drawn = picture(NORMAL, one)
        block = sphere(20, front)
        score = cv2.matchTemplate(key_of(drawn, 800, 2), block, cv2.TM_SQDIFF_NORMED)
        assert score.min() < 1e-3


# --- pose ------------------------------------------------------------------------------------------------------


def person(seen: dict[str, tuple[float, float]], box: tuple[float, ...], score: float | None = None) -> Row:
    names = keypoints(17).names
    points = [list(seen.get(name, (0, 0))) for name in names]
    scores = [0.9 if name in seen else 0.1 for name in names]
    return {"box": list(box), "box_score": score, "keypoints": points, "scores": scores}


LEFT_ARM = {"left_shoulder": (300.0, 200.0), "left_elbow": (400.0, 300.0), "left_wrist": (300.0, 400.0)}


def pose_row(*persons: Row) -> Row:
    return {"width": 800, "height": 600, "persons": list(persons)}


def test_links_have_the_colour_of_their_body_part_and_the_legend_names_the_drawn_ones():
    parts = list(skeleton.PARTS)
    drawn = picture(POSE, pose_row(person(LEFT_ARM, (200, 100, 500, 500))))
    x, y, _, _ = photo_at(drawn)
    for place in ((350, 250), (350, 350)):
        assert tuple(drawn[y + place[1], x + place[0], ::-1].tolist()) == skeleton.PARTS["left arm"]
    assert [parts[one] for one in colours_in(key_of(drawn, 800, 1), list(skeleton.PARTS.values()))] == [
        "torso",
        "left arm",
    ]
    right = {name.replace("left", "right"): place for name, place in LEFT_ARM.items()}
    drawn = picture(POSE, pose_row(person(right, (200, 100, 500, 500))))
    assert tuple(drawn[y + 250, x + 350, ::-1].tolist()) == skeleton.PARTS["right arm"]


@pytest.mark.parametrize("count", [17, 133, 308])
def test_every_link_belongs_to_one_body_part_of_its_side(count):
    table = keypoints(count)
    look = skeleton.look_of(table)
    points, links = look.points, look.links
    assert set(points) | set(links) <= set(skeleton.PARTS)
    limbs = [part for part in skeleton.PARTS if " " in part]
    without = {part for part in limbs if part.endswith(("hand", "foot"))} if count == 17 else set()
    assert set(limbs) - set(links) == without
    for (start, end), part in zip(table.links, links, strict=True):
        for side in ("left", "right"):
            if part.startswith(side):
                assert table.names[end].startswith(side) and table.names[start].startswith(side)
    named = dict(zip(table.names, points, strict=True))
    assert (named["left_wrist"], named["right_knee"], named["nose"]) == ("left arm", "right leg", "head")
    if count == 308:
        assert (named["left_olecranon"], named["neck"], named["right_acromion"]) == ("left arm", "head", "torso")


def test_each_person_has_a_box_with_index_and_score():
    boxes = [(100, 100, 300, 500), (450, 120, 700, 580)]
    first = picture(POSE, pose_row(*(person({}, box, 0.5) for box in boxes)))
    x, y, _, _ = photo_at(first)
    for x1, y1, x2, y2 in boxes:
        for place in ((x2, (y1 + y2) // 2), (x1, (y1 + y2) // 2), ((x1 + x2) // 2, y2)):
            assert (first[y + place[1], x + place[0]] == 255).all(), place
    plates = []
    for changed in range(2):
        scores = [0.5, 0.5]
        scores[changed] = 0.98
        other = picture(POSE, pose_row(*(person({}, box, score) for box, score in zip(boxes, scores, strict=True))))
        rows, columns = np.nonzero((first != other).any(-1))
        x1, y1, x2, _ = boxes[changed]
        assert y + y1 - 40 < rows.min() and rows.max() < y + y1, "the plate lies above the box"
        assert x + x1 - 5 < columns.min() and columns.max() < x + x2
        plates.append(first[y + y1 - 24 : y + y1 - 4, x + x1 : x + x1 + 12])
    assert (plates[0] != plates[1]).any(), "0 and 1"
    without = picture(POSE, pose_row(*(person({}, box) for box in boxes)))
    assert (without[:, : x + 800] != first[:, : x + 800]).any(), "the mean of the keypoints' scores"


def test_narrow_boxes_show_the_index_alone():
    narrow, wide = (100, 100, 130, 300), (400, 100, 500, 300)
    drawn = [picture(POSE, pose_row(person({}, narrow, score), person({}, wide, 0.5))) for score in (0.2, 0.98)]
    assert np.array_equal(*drawn)
    x, y, _, _ = photo_at(drawn[0])
    assert drawn[0][y + 80 : y + 98, x + 100 : x + 120].min() < 80, "the index is there"


def test_the_pixels_of_each_person_have_a_tint_of_their_own():
    plain, row = (pose_row(person({}, (100, 100, 200, 500)), person({}, (400, 100, 500, 500))) for _ in range(2))
    instances = np.zeros((600, 800), np.uint8)
    instances[150:450, 110:190], instances[150:450, 410:490] = 1, 2
    drawn = picture(POSE, {**row, "persons_instances": encode_png(instances)})
    x, y, _, _ = photo_at(picture(POSE, plain))
    photo = drawn[y : y + 600, x : x + 800]
    tints = [photo[300, column].tolist() for column in (150, 450)]
    assert len({*map(tuple, tints), GREEN}) == 3
    for number, tint in enumerate(tints, 1):
        assert (photo[instances == number] == tint).all()
    assert (photo[200:400, 220:380] == GREEN).all()


def test_boxes_that_leave_the_photo_are_drawn_in_it():
    whole = picture(POSE, pose_row(person({}, (0, 0, 800, 600))))
    x, y, _, _ = photo_at(picture(POSE, pose_row(person({}, (100, 100, 200, 200)))))
    plate = whole[y : y + 20, x : x + 40]
    assert (plate[:3] == 255).all() and plate.min() < 80, "the plate is inside"
    far = picture(POSE, pose_row(person({}, (-1e6, -1e6, 1e6, 1e6)), person({}, (900, 700, 950, 800))))
    assert (far[y + 100 : y + 500, x + 100 : x + 700] == GREEN).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_words_say_that_nobody_was_found(size):
    drawn = picture(POSE, {"width": size[0], "height": size[1], "persons": []})
    width, height = picture_size(*size, 1280, 480)
    x, y, _, _ = photo_at(drawn)
    photo = drawn[y : y + height, x : x + width]
    rows, columns = np.nonzero((photo != GREEN).any(-1))
    words = photo[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert abs(rows.min() - (height - 1 - rows.max())) <= 1 and abs(columns.min() - (width - 1 - columns.max())) <= 1
    letters = np.count_nonzero((words > 128).all(-1).any(1))
    assert letters >= (10 if width >= 100 else 4)
    assert words.size < 0.75 * photo.size or min(width, height) < 100


def test_the_engine_enlarges_small_photos_for_explained_pictures():
    photo = encode_png(np.full((200, 300, 3), GREEN, np.uint8))
    unit = prepare(make_unit([Encoded(0, "a.png", "", photo)], pa.schema([])), [SEG], 1 << 20)
    finished = SEG.finish([certain(np.full((200, 300), 22, np.uint8))], {})
    for field in SEG.fields:
        unit.rows = set_column(unit.rows, field.name, pa.array([finished[field.name]], field.type))
    shown = {}
    for style in ("lite", "explained"):
        drawn, (one,) = draw(unit, [SEG], Visualize(style=style, format="png"))
        assert drawn.rows["visualization"].to_pylist() == ["visualizations/a.png"] and one.name == "a.png"
        shown[style] = cv2.imdecode(np.frombuffer(one.data, np.uint8), cv2.IMREAD_COLOR)
    assert shown["lite"].shape == (200, 600, 3)
    assert photo_at(shown["explained"])[2:] == (480, 320)
