"""Draw docs/images/cover.png, the picture at the top of the README: `make cover`, or

    make cover CHECKPOINTS=/data/checkpoints

CHECKPOINTS is a folder tree as `sapiens-ray checkpoints pull … --to /data/checkpoints` and Sapiens-Lite lay it out. The
labels are then those of the largest model of every task that is in it. Without it they are stand-ins: a watershed by
colour from the strokes in PHOTOS as classes, a surface inflated over that person as depth and normals, keypoints placed
by hand, and a histogram of brightness in place of features. The line under the picture says which of both it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import sapiens_ray as sr
from sapiens_ray.imaging.images import decode_map, encode_png
from sapiens_ray.imaging.maps import encode_npy
from sapiens_ray.labels import keypoints
from sapiens_ray.models.catalogue import CATALOGUE, LICENCE, Mode, in_tree
from sapiens_ray.tasks import skeleton
from sapiens_ray.tasks.depth import Depth, DepthOptions
from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.tasks.normal import Normal, NormalOptions
from sapiens_ray.tasks.persons import around
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.seg import Seg, SegOptions
from sapiens_ray.units import Row

SAMPLES = Path(sr.__file__).parent / "samples"
COVER = Path(__file__).with_name("cover.png")
CREDIT = "Photos: Eileen Collins (NASA) and Grace Hopper (US Navy), public domain."
STAND_INS = "Label panels: stand-ins that show what the columns hold. They are not Sapiens output."

SCALE = 2  # everything is drawn twice as large, then reduced: Pillow does not smooth edges of shapes
WIDTH, HEIGHT = 1800, 700
TOP, BOTTOM = 132, 592  # of the three columns
PANEL, MARGIN = 142, 34

INK, MUTED, ACCENT, ERROR = "#1f2328", "#59636e", "#0969da", "#cf222e"
PAPER, FILL, LINE, BLUE_FILL, ERROR_FILL = "#ffffff", "#f6f8fa", "#d1d9e0", "#ddf4ff", "#ffebe9"
ACCENT_BGR = (218, 105, 9)

BACKGROUND, APPAREL, FACE, HAIR, CLOTHING = 0, 1, 2, 3, 22
FEATURES = 1536  # numbers of a 1B model

# The kinds of models that can label each column, and their sizes, the preferred one first.
KINDS = {
    "seg": ["seg"],
    "depth": ["depth"],
    "normal": ["normal"],
    "pose": ["pose308", "pose133", "pose17"],
    "features": ["pretrain"],
}
SIZES = ["2b", "1b", "0.6b", "0.3b"]
FILES: tuple[Mode, ...] = ("torchscript", "original", "bfloat16")

Stroke = list[tuple[int, int]]

# For each photo: strokes in pixels for every class, and COCO keypoints (index: position), both placed by hand.
PHOTOS: dict[str, tuple[dict[int, list[Stroke]], dict[int, tuple[int, int]]]] = {
    "astronaut.jpg": (
        {
            HAIR: [[(170, 110), (165, 70), (200, 35), (250, 35), (285, 70), (287, 105)], [(200, 65), (260, 60)]],
            FACE: [[(200, 95), (222, 145), (250, 100)], [(215, 175), (240, 172)], [(195, 100), (255, 105)]],
            CLOTHING: [
                [(60, 320), (110, 250), (150, 260)],
                [(60, 460), (45, 400), (110, 460), (200, 400), (290, 320), (330, 290)],
                [(130, 200), (170, 260), (240, 285), (290, 250), (285, 200), (260, 185)],
                [(150, 170), (180, 165), (190, 190)],
                [(210, 210), (250, 220)],
                [(250, 330), (260, 460)],
                [(180, 480), (120, 500)],
                [(345, 340), (320, 290)],
                [(285, 350), (320, 365), (315, 375)],
                [(45, 330), (40, 470), (70, 505)],
                [(215, 500), (240, 480)],
            ],
            BACKGROUND: [
                [(3, 3), (3, 508)],
                [(60, 100), (20, 350)],
                [(100, 20), (90, 180)],
                [(130, 100), (120, 150)],
                [(320, 30), (320, 200)],
                [(400, 20), (420, 260), (500, 400)],
                [(350, 230), (365, 300), (380, 300), (500, 330)],
                [(290, 480), (320, 385), (400, 352), (480, 420), (480, 505)],
                [(340, 400), (330, 480), (420, 500)],
                [(300, 140), (310, 190)],
                [(140, 5), (400, 5)],
                [(70, 200), (50, 240)],
                [(30, 260), (10, 420)],
            ],
        },
        {
            0: (224, 122),
            1: (246, 103),
            2: (203, 101),
            3: (272, 118),
            4: (180, 120),
            5: (318, 282),
            6: (98, 268),
            8: (48, 452),
        },
    ),
    "grace_hopper.jpg": (
        {
            APPAREL: [
                [(165, 150), (200, 118), (260, 100), (330, 118), (360, 150)],
                [(260, 40), (250, 70)],
                [(210, 60), (190, 75)],
                [(310, 60), (340, 75)],
            ],
            FACE: [
                [(200, 150), (330, 150)],
                [(265, 200), (265, 300)],
                [(210, 260), (320, 260)],
                [(172, 230), (175, 250)],
                [(360, 210), (355, 240)],
                [(240, 350), (290, 345)],
                [(185, 190), (225, 200), (300, 200), (345, 190)],
            ],
            HAIR: [[(185, 283), (182, 278)], [(350, 275), (342, 293)]],
            CLOTHING: [
                [(60, 440), (200, 360), (180, 500)],
                [(300, 500), (480, 440)],
                [(340, 360), (440, 400)],
                [(205, 370), (240, 480), (250, 430)],
                [(323, 348), (305, 392), (270, 415)],
                [(30, 580), (480, 580)],
                [(100, 500), (150, 500)],
                [(340, 515), (440, 515)],
                [(265, 430), (255, 500)],
                [(200, 340), (212, 400)],
            ],
            BACKGROUND: [
                [(5, 5), (5, 480)],
                [(60, 30), (60, 360)],
                [(120, 30), (120, 340)],
                [(160, 10), (150, 130), (146, 340)],
                [(420, 20), (420, 340)],
                [(400, 150), (400, 340), (505, 380)],
                [(180, 10), (500, 10)],
                [(170, 310), (185, 315)],
                [(80, 350), (45, 370)],
                [(20, 400), (8, 550)],
                [(375, 280), (360, 330)],
                [(390, 60), (500, 300)],
                [(180, 40), (215, 25)],
            ],
        },
        {0: (266, 232), 1: (310, 188), 2: (223, 190), 3: (368, 215), 4: (164, 228), 5: (440, 400), 6: (72, 408)},
    ),
}


def segment(photo: np.ndarray, strokes: dict[int, list[Stroke]]) -> np.ndarray:
    """The class of every pixel (H x W uint8): watershed over the colours of the smoothed photo, from the strokes."""
    markers = np.zeros(photo.shape[:2], np.int32)
    for label, lines in strokes.items():
        for line in lines:
            cv2.polylines(markers, [np.array(line, np.int32)], False, label + 1, 4)
    cv2.watershed(cv2.bilateralFilter(photo, 9, 50, 9), markers)  # -1 on the rim of the photo and between regions
    classes = np.maximum(markers - 1, BACKGROUND).astype(np.uint8)[1:-1, 1:-1]
    return cv2.medianBlur(cv2.copyMakeBorder(classes, 1, 1, 1, 1, cv2.BORDER_REPLICATE), 9)


def inflate(inside: np.ndarray) -> np.ndarray:
    """Heights between 0 and 1 (H x W float32) of a cushion over the mask; photo borders are not its rim."""
    margin = 120
    padded = cv2.copyMakeBorder(inside.astype(np.uint8), margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    slope = np.minimum(cv2.distanceTransform(padded, cv2.DIST_L2, 5) / 110, 1)
    heights = cv2.GaussianBlur(np.sqrt(1 - (1 - slope) ** 2), (0, 0), 12)
    return heights[margin:-margin, margin:-margin].astype(np.float32)


def stand_in(name: str, photo: np.ndarray) -> Row:
    """A row as the tasks make it, with stand-ins for labels."""
    strokes, places = PHOTOS[name]
    classes = segment(photo, strokes)
    heights = inflate(classes != BACKGROUND)
    down, right = np.gradient(heights * 90)
    x, y, width, height = cv2.boundingRect((classes != BACKGROUND).astype(np.uint8))
    points = [places.get(number, (0, 0)) for number in range(len(keypoints(17).names))]
    scores = [float(number in places) for number in range(len(points))]
    brightness = cv2.calcHist([cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)], [0], None, [32], [0, 256]).ravel()
    return {
        "seg": encode_png(classes),
        "depth": encode_npy(1 - heights),
        "normal": encode_npy(np.dstack([-right, down, np.ones_like(right)])),
        "persons": [{"box": [x, y, x + width, y + height], "keypoints": points, "scores": scores}],
        "features": np.sqrt(brightness).repeat(FEATURES // 32),
    }


def checkpoint(tree: Path, task: str) -> tuple[str, Path, Mode]:
    """The name of the preferred model of a task in the tree, its file, and the mode of that file."""
    for kind in KINDS[task]:
        for size in SIZES:
            for mode in FILES if f"{kind}-{size}" in CATALOGUE else ():
                file = in_tree(tree, CATALOGUE[f"{kind}-{size}"], mode)
                if file is not None:
                    return f"{kind}-{size}", file, mode
    sys.exit(
        f"no checkpoint for {task} in {tree}; fetch one: sapiens-ray checkpoints pull {KINDS[task][0]}-1b --to {tree}"
    )


def labelled(tree: Path, photos: list[np.ndarray]) -> tuple[list[Row], list[str]]:
    """A row for each photo, and the names of the models, which are loaded one after the other."""
    chosen = {task: checkpoint(tree, task) for task in KINDS}
    rows: list[Row] = [{} for _ in photos]
    for task, (name, file, mode) in chosen.items():
        options: dict[str, object] = {"mode": "bfloat16"} if mode == "bfloat16" else {}
        columns = {}
        if task == "pose":
            options |= {"keypoints": int(name.partition("-")[0].removeprefix("pose")), "boxes": {"column": "boxes"}}
            columns["boxes"] = [around(decode_map(row["seg"]) > BACKGROUND)[:, :4].tolist() for row in rows]
        print(f"{name}: {file}", file=sys.stderr)
        made = sr.Labeler(task=task, checkpoint=file, **options)(photos, decode=False, columns=columns)
        for row, new in zip(rows, made, strict=True):
            if new["error_kind"] is not None:
                sys.exit(f"{name}: {new['error_kind']}: {new['error']}")
            row |= new
    return rows, [name for name, *_ in chosen.values()]


def paint_person(photo: np.ndarray, persons: list[Row]) -> np.ndarray:
    """The photo, paler, with the box and the links of each person."""
    canvas = cv2.addWeighted(photo, 0.75, np.full_like(photo, 255), 0.25, 0)
    for one in persons:
        x1, y1, x2, y2 = (round(number) for number in one["box"])
        cv2.rectangle(canvas, (x1 + 2, y1 + 2), (x2 - 4, min(y2, photo.shape[1]) - 4), ACCENT_BGR, 6)
        person = skeleton.Person.of(one, np.ones(2), canvas, Visualize().keypoint_score)
        table = keypoints(len(one["scores"]))
        skeleton.draw_parts(canvas, replace(person, size=3 * person.size), table, skeleton.look_of(table))
    return canvas


def paint_features(features: np.ndarray) -> np.ndarray:
    """Bars of the mean size of neighbouring features."""
    bars = np.abs(features).reshape(32, -1).mean(1)
    canvas = np.full((512, 512, 3), (250, 248, 246), np.uint8)
    for bar, share in enumerate(bars / max(float(bars.max()), 1e-9)):
        left, top = 32 + bar * 14, int(310 - 230 * share)
        cv2.rectangle(canvas, (left, top), (left + 8, 310), ACCENT_BGR, -1)
    return canvas


def panels(photo: np.ndarray, row: Row) -> list[np.ndarray]:
    """A photo and its label panels, in the order of the columns, square, H x W x 3 BGR."""
    height, width = photo.shape[:2]
    row = {**row, "width": width, "height": height}
    look, mask = Visualize(style="lite", opacity=0.7), Mask(source="seg", seg="seg")
    tasks = [
        Seg(SegOptions(task="seg", checkpoint="-")),
        Depth(DepthOptions(task="depth", checkpoint="-", mask=mask)),
        Normal(NormalOptions(task="normal", checkpoint="-", mask=mask)),
    ]
    maps = [task.draw(photo, row, look)[:, width : 2 * width] for task in tasks]  # right of the photo
    pictures = [photo, *maps, paint_person(photo, row["persons"]), paint_features(np.array(row["features"]))]
    return [picture[: picture.shape[1]] for picture in pictures]


class Canvas:
    """Pillow's drawing calls in units of the finished picture."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def text(
        self, x: float, y: float, text: str, size: int, bold: bool = False, fill: str = INK, anchor: str = "lm"
    ) -> None:
        face = ImageFont.load_default(size * SCALE)
        self.draw.text((x * SCALE, y * SCALE), text, fill, face, anchor, stroke_width=SCALE // 2 if bold else 0)

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, line: str = LINE, radius: int = 12
    ) -> None:
        corners = (x * SCALE, y * SCALE, (x + width) * SCALE, (y + height) * SCALE)
        self.draw.rounded_rectangle(corners, radius * SCALE, fill, line, 2 * SCALE)

    def line(self, points: Iterable[tuple[float, float]], fill: str, width: float = 3) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.draw.line(scaled, fill, round(width * SCALE), "curve")

    def arrow(self, x: float, y: float, length: float, fill: str = ACCENT) -> None:
        """An arrow from (x, y) to the right."""
        self.line([(x, y), (x + length - 8, y)], fill, 5)
        head = [(x + length, y), (x + length - 18, y - 13), (x + length - 18, y + 13)]
        self.draw.polygon([(a * SCALE, b * SCALE) for a, b in head], fill)

    def down(self, x: float, y: float, length: float, fill: str = ACCENT) -> None:
        """A small arrow from (x, y) downwards."""
        head = [(x, y + length), (x - 9, y + length - 11), (x + 9, y + length - 11)]
        self.line([(x, y), (x, y + length - 8)], fill, 4)
        self.draw.polygon([(a * SCALE, b * SCALE) for a, b in head], fill)

    def picture(self, x: float, y: float, side: int, bgr: np.ndarray) -> None:
        """A square picture with round corners."""
        size = side * SCALE
        small = cv2.resize(bgr, (size, size), interpolation=cv2.INTER_AREA)
        mask = Image.new("L", (size, size), 0)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, size - 1, size - 1), 10 * SCALE, 255)
        self.image.paste(Image.fromarray(small[..., ::-1].copy()), (round(x * SCALE), round(y * SCALE)), mask)

    def finished(self) -> Image.Image:
        return self.image.reduce(SCALE).point(lambda level: level | 3)  # two bits less save a third of the file


def title(canvas: Canvas, x: float, heading: str, note: str) -> None:
    canvas.text(x, 52, heading, 34, bold=True)
    canvas.text(x, 94, note, 27, fill=MUTED)


def draw_inputs(canvas: Canvas, x: int, width: int) -> None:
    title(canvas, x, "Input", "one or several")
    rows = [
        ("Folder", "photos/"),
        ("WebDataset", "*.tar"),
        ("Parquet", "*.parquet"),
        ("List", ".txt .csv .jsonl"),
        ("Object storage", "s3://…"),
    ]
    height, gap = 76, 20
    for number, (name, example) in enumerate(rows):
        y = TOP + number * (height + gap)
        canvas.box(x, y, width, height, FILL)
        canvas.text(x + 18, y + 25, name, 26, bold=True)
        canvas.text(x + 18, y + 54, example, 23, fill=MUTED)


def draw_stages(canvas: Canvas, x: int, width: int) -> None:
    title(canvas, x, "sapiens-ray run job.yaml", "a laptop or a Ray cluster")
    stages = [
        ("Read", "stream the encoded bytes"),
        ("Prepare", "decode each image once"),
        ("Infer", "all models, one actor per GPU"),
        ("Write", "atomic files; reruns resume"),
    ]
    height, gap = 94, 28
    for number, (name, note) in enumerate(stages):
        y = TOP + number * (height + gap)
        canvas.box(x, y, width, height, BLUE_FILL, "#80ccff")
        canvas.text(x + 22, y + 32, name, 31, bold=True)
        canvas.text(x + 22, y + 66, note, 25, fill=MUTED)
        if number:
            canvas.down(x + width / 2, y - gap + 3, gap - 6)


def draw_output(canvas: Canvas, x: int, gap: int, rows: list[tuple[np.ndarray, Row]]) -> None:
    title(canvas, x, "One row per image", "Parquet; exports to COCO JSON, index PNGs, Sapiens-Lite's files")
    columns = ["photo", "seg", "depth", "normal", "persons", "features", "error_kind"]
    step = PANEL + gap
    for number, column in enumerate(columns):
        colour = {"photo": MUTED, "error_kind": ERROR}.get(column, ACCENT)
        canvas.text(x + number * step, TOP + 14, column, 25, True, colour)
    for number, (photo, row) in enumerate(rows):
        y = TOP + 38 + number * (PANEL + 16)
        for position, picture in enumerate(panels(photo, row)):
            canvas.picture(x + position * step, y, PANEL, picture)
        count = f"{len(row['features']):,} floats"
        canvas.text(x + 5 * step + PANEL / 2, y + 122, count, 22, fill=MUTED, anchor="mm")
        canvas.text(x + 6 * step, y + PANEL / 2, "null", 25, fill=MUTED)
    draw_error_row(canvas, x, TOP + 38 + len(rows) * (PANEL + 16), step)


def draw_error_row(canvas: Canvas, x: int, y: int, step: int) -> None:
    width, height = WIDTH - MARGIN - x, BOTTOM - y
    canvas.box(x, y, width, height, ERROR_FILL, "#ffc1bc")
    canvas.text(x + 18, y + height / 2, "cut-off.jpg", 27, bold=True)
    canvas.text(
        x + step + 10, y + height / 2, "no labels; error: “cannot be decoded: truncated or damaged”", 25, fill=MUTED
    )
    canvas.text(x + 6 * step, y + height / 2, "corrupt", 27, True, ERROR)


def draw(rows: list[tuple[np.ndarray, Row]], notes: list[str]) -> Image.Image:
    """rows: photos with their labels. notes: lines under the picture."""
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.box(1, 1, WIDTH - 2, HEIGHT - 2, PAPER, LINE, 0)
    middle = (TOP + BOTTOM) / 2
    draw_inputs(canvas, MARGIN, 206)
    canvas.arrow(MARGIN + 217, middle, 42)
    draw_stages(canvas, 304, 358)
    canvas.arrow(673, middle, 42)
    draw_output(canvas, 726, 8, rows)
    for number, note in enumerate(notes):
        canvas.text(MARGIN, BOTTOM + 36 + 34 * number, note, 23, fill=MUTED)
    return canvas.finished()


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the cover picture.")
    parser.add_argument("--checkpoints", type=Path, help="folder tree of checkpoints; default: stand-ins for labels")
    parser.add_argument("--to", type=Path, default=COVER, help="file to write")
    arguments = parser.parse_args()
    photos = [cv2.imread(str(SAMPLES / name)) for name in PHOTOS]
    if arguments.checkpoints:
        rows, names = labelled(arguments.checkpoints.expanduser(), photos)
        note = f"Labels: {', '.join(names)} of Sapiens by Meta, {LICENCE}, not for commercial use."
    else:
        rows, note = [stand_in(name, photo) for name, photo in zip(PHOTOS, photos, strict=True)], STAND_INS
    draw(list(zip(photos, rows, strict=True)), [note, CREDIT]).save(arguments.to, optimize=True)
    print(f"{arguments.to}: {note}")


if __name__ == "__main__":
    main()
