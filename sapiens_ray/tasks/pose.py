"""Keypoints of every person, top-down: 17 (COCO), 133 (COCO-WholeBody), 308 (Goliath), or those that the job describes.

Each box is cropped from the photo, the network gives one heatmap per keypoint, and the peaks are mapped back to the
photo.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, ValidationInfo, field_validator

from sapiens_ray.imaging import annotate
from sapiens_ray.imaging.images import decode_map, encode_png
from sapiens_ray.labels import KeypointTable, keypoints
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks import confidence, crops, skeleton
from sapiens_ray.tasks.base import Average, CropTask, Output, Size, TaskKind
from sapiens_ray.tasks.coco import CocoOptions
from sapiens_ray.tasks.foreground import of_class_map
from sapiens_ray.tasks.instances import Instances, areas, split
from sapiens_ray.tasks.network import SAPIENS2, Recipe
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.outputs import output_maps
from sapiens_ray.tasks.own_labels import Keypoints, OwnKeypoints
from sapiens_ray.tasks.persons import Boxes, DetectorOptions
from sapiens_ray.tasks.sections import Settings, Visualize
from sapiens_ray.tasks.stored import About, Files, StoredPersons, about_keypoints, instances_column
from sapiens_ray.units import Row

if TYPE_CHECKING:
    import torch


NOBODY, NO_BOXES = "no person found", "no boxes given"


class PoseOptions(ModelOptions):
    """Options of `task: pose`."""

    channel_name: ClassVar[str] = "keypoints"
    label_files: ClassVar[tuple[str, ...]] = ("keypoints",)

    task: Literal["pose"]
    keypoints: Keypoints = Field(
        description="How many keypoints the checkpoint predicts: 17, 133 or 308. Of a fine-tuned one: a YAML file "
        "(relative to the job file) or URL, a list of names, or {names, links, colours, flip_pairs, sigmas, groups}."
    )
    boxes: Boxes = Field(
        Boxes(source="none"),
        description="Where the persons are: none (one box, the whole image), {column: name}, seg (one box, around the "
        "foreground of the job's seg task), detector, {detector: {…}}, {coco: file.json}.",
    )
    instances: Instances = Field(
        Instances(source="none"),
        description="seg: which person each foreground pixel of the job's seg task shows, as a map "
        "(<column>_instances), and how many pixels each person has (seg_area). A heuristic: the nearest skeleton.",
    )
    crop: Literal["trained", "lite"] = Field(
        "trained",
        description="trained: the box grown to 3:4, as in training. lite: grown to the aspect of the photo, for "
        "equality with Sapiens-Lite's outputs.",
    )
    flip_test: bool = Field(
        False, description="Also run the mirrored crop and average, as the original evaluation does: twice the cost."
    )

    @field_validator("flip_test")
    @classmethod
    def _has_pairs(cls, value: bool, info: ValidationInfo) -> bool:
        own = info.data.get("keypoints")
        if value and isinstance(own, OwnKeypoints) and "flip_pairs" not in own.model_fields_set:
            raise ValueError("the keypoints need `flip_pairs`: which change places in a mirrored photo; [] for none")
        return value

    @property
    def column(self) -> str:
        return self.name or "persons"

    @property
    def published_kind(self) -> str:
        return f"pose{self.channels}"

    @property
    def table(self) -> KeypointTable:
        return self.keypoints.table if isinstance(self.keypoints, OwnKeypoints) else keypoints(self.keypoints)

    @property
    def channels(self) -> int:
        return len(self.table.names)

    def stored_bytes(self, pixels: int) -> int:
        return self.channels * 12  # x, y, score; one person

    def settled(self, tasks: Sequence[ModelOptions], where: str) -> ModelOptions:
        boxes = self.boxes.settled(tasks, f"{where}.boxes")
        return self.model_copy(
            update={"boxes": boxes, "instances": self.instances.settled(tasks, f"{where}.instances")}
        )

    @property
    def box_columns(self) -> list[str]:
        return [self.boxes.column] if self.boxes.column else []

    @property
    def detectors(self) -> list[DetectorOptions]:
        return [self.boxes.detector] if self.boxes.detector else []

    @property
    def box_files(self) -> list[CocoOptions]:
        return [self.boxes.coco] if self.boxes.coco else []

    @property
    def description(self) -> str:
        boxes = self.boxes
        named = boxes.column or boxes.seg or (boxes.detector.model if boxes.detector else "one box, the whole image")
        named = redact_uri(boxes.coco.uri) if boxes.coco else named
        own = " of its own" if isinstance(self.keypoints, OwnKeypoints) else ""
        split = f", instances of {self.instances.seg}" if self.instances.seg else ""
        return f"{self.channels} keypoints{own}, persons: {boxes.source} ({named}), crop {self.crop}{split}"

    def result_settings(self) -> Settings:
        given = self.keypoints
        points = given.result_settings() if isinstance(given, OwnKeypoints) else given
        settings = {**super().result_settings(), "boxes": self.boxes.result_settings(), "keypoints": points}
        if self.instances.source == "none":
            del settings["instances"]  # so that outputs that were begun before there was this choice are continued
        return settings

    def with_recipe(self, recipe: Recipe) -> Self:
        if recipe.name == SAPIENS2 and self.crop == "lite":
            raise ValueError("it is a model of Sapiens2, for which `crop: lite` does not exist; leave it out")
        return super().with_recipe(recipe)

    @property
    def input_bytes(self) -> int:
        """0 if persons are cropped from the photo, which is counted separately."""
        return super().input_bytes if self.boxes.source == "none" else 0


class Pose(CropTask[PoseOptions]):
    """The task pose."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that give the boxes, and the foreground of the instance map."""
        boxes = self.options.boxes
        columns = (boxes.seg if boxes.source == "seg" else boxes.carried, self.options.instances.seg)
        return tuple(dict.fromkeys(column for column in columns if column))

    @property
    def whole_photo(self) -> str:
        return f"whole-{self.options.crop}" if self.options.boxes.source == "none" else ""

    @property
    def table(self) -> KeypointTable:
        return self.options.table

    @property
    def fields(self) -> list[pa.Field]:
        """Arrow columns: a list of persons, in the order of the boxes. `score` and `visible`: `confidence.of_person`.
        With `instances`, also the pixels of each person, and the map of all of them (`instances.py`) as PNG."""
        person = [
            pa.field("box", pa.list_(pa.float32(), 4)),
            pa.field("box_score", pa.float32()),
            pa.field("keypoints", pa.list_(pa.list_(pa.float32(), 2))),
            pa.field("scores", pa.list_(pa.float32())),
            pa.field("score", pa.float32()),
            pa.field("visible", pa.int32()),
        ]
        if self.options.instances.source == "none":
            return [pa.field(self.column, pa.list_(pa.struct(person)))]
        person.append(pa.field("seg_area", pa.int32()))
        return [
            pa.field(self.column, pa.list_(pa.struct(person))),
            pa.field(instances_column(self.column), pa.binary()),
        ]

    @property
    def metadata(self) -> About:
        """All that is known of the keypoints, for the metadata of the output files; and the class map whose foreground
        is split."""
        about, seg = about_keypoints(self.table), self.options.instances.seg
        return {**about, "instances_of": seg} if seg else about

    def boxes(self, row: Row) -> np.ndarray:
        """The boxes of an image, N x 5 float64 (x1, y1, x2, y2, score). Each becomes one network input."""
        return self.options.boxes.of(row)

    def crop(self, photo: np.ndarray, box: np.ndarray) -> np.ndarray:
        """The network's 1024 x 768 x 3 uint8 BGR input for one person of an H x W x 3 uint8 BGR photo."""
        crop = crops.trained_crop if self.options.crop == "trained" else crops.lite_crop
        return crop(photo, self._geometry(box, photo.shape[1], photo.shape[0]))

    def _geometry(self, box: np.ndarray, width: int, height: int) -> crops.Crop:
        if self.options.crop == "trained":
            return crops.trained_geometry(box)
        return crops.lite_geometry(box, width, height)

    def check_output(self, output: Output, batch: int) -> torch.Tensor:
        """The B x K x h x w heatmaps in what the model returned. Raises CheckpointError for anything else."""
        return output_maps(output, batch, self.options.channels, self.options, "heatmaps")

    @property
    def flip_average(self) -> Average | None:
        return self.average if self.options.flip_test else None

    def average(self, output: Output, mirrored: Output, batch: int) -> torch.Tensor:
        """The flip test: the mean of the heatmaps of the crops and those of the mirrored crops, which are mirrored
        back, with left and right swapped. With UDP no shift by a pixel is needed."""
        there, back = self.check_output(output, batch), self.check_output(mirrored, batch)
        return (there + back.flip(-1)[:, list(self.table.swap)]) / 2

    def reduce(self, heatmaps: torch.Tensor, sizes: list[Size]) -> list[tuple[np.ndarray, int, int]]:
        """B x K x h x w heatmaps, on the device, to K x 3 float64 (x, y in cells, score), with w and h."""
        from sapiens_ray.tasks.dark import decode_heatmaps

        height, width = heatmaps.shape[2:]
        points = decode_heatmaps(heatmaps, middle_of_ties=self.options.mode == "bfloat16")
        return [(one, width, height) for one in points.cpu().numpy()]

    def finish(self, results: list[tuple[np.ndarray, int, int]], row: Row) -> Row:
        """The columns of one row, positions in pixels of the photo."""
        persons: list[Row] = []
        for box, (points, width, height) in zip(self.boxes(row), results, strict=True):
            crop = self._geometry(box, row["width"], row["height"])
            box_score = None if math.isnan(box[4]) else float(box[4])
            scores = points[:, 2].astype(np.float32)
            persons.append(
                {
                    "box": box[:4].astype(np.float32),
                    "box_score": box_score,
                    "keypoints": list(crops.to_photo(points[:, :2], crop, width, height).astype(np.float32)),
                    "scores": scores,
                    **confidence.of_person(scores, box_score),
                }
            )
        seg = self.options.instances.seg
        if not seg:
            return {self.column: persons}
        found = split(of_class_map(row[seg], self.options.instances.background), persons, self.table.links)
        for person, pixels in zip(persons, areas(found, len(persons)), strict=True):
            person["seg_area"] = pixels
        return {self.column: persons, instances_column(self.column): encode_png(found)}

    def draw(self, photo: np.ndarray, row: Row, settings: Visualize) -> np.ndarray:
        """The photo with all persons, h x w x 3 uint8 BGR. Keypoints below `settings.keypoint_score` are not drawn.

        Style lite: keypoints, then links over them, in the table's colours. Style explained: links by body part (of
        keypoints of the user's own: by keypoint), the box of each person with its index and score, and a legend; words
        across the photo if there is nobody. With `instances`, the pixels of each person have a tint of their own.
        """
        canvas = photo.copy()
        scale = np.array([photo.shape[1] / row["width"], photo.shape[0] / row["height"]])
        found: list[Row] = row[self.column]
        persons = [skeleton.Person.of(person, scale, canvas, settings.keypoint_score) for person in found]
        if settings.style == "lite":
            for person in persons:
                skeleton.draw_lite(canvas, person, self.table)
            return canvas
        shown = row.get(instances_column(self.column))
        if shown is not None:
            skeleton.tint(canvas, decode_map(shown), settings.opacity)
        layout = annotate.Layout(photo.shape[1], photo.shape[0])
        title = f"{self.column}: {self.options.channels} keypoints"
        if not found:
            given = self.options.boxes.source in ("column", "coco")
            annotate.banner(canvas, NO_BOXES if given else NOBODY, layout.text)
            return annotate.compose([(title, canvas)])
        look = skeleton.look_of(self.table)
        drawn: set[str] = set()
        for person in persons:
            drawn |= skeleton.draw_parts(canvas, person, self.table, look)
        scored = any(one["box_score"] is not None for one in found)
        for number, one in enumerate(found):
            score = one["box_score"] if scored else float(np.mean(one["scores"]))
            skeleton.draw_box(canvas, one["box"], scale, number, score, layout.text)
        key = [skeleton.part_legend(layout, look, drawn)] if drawn else []
        of = "score of the box" if scored else "mean keypoint score"
        key.append(annotate.words(layout, ["boxes: index and", of]))
        key.append(annotate.words(layout, ["keypoints: score of", f"{settings.keypoint_score:g} or more"]))
        if shown is not None:
            key.append(annotate.words(layout, ["tints: pixels of", "each person"]))
        return annotate.compose([(title, canvas)], key)


class Sapiens2Pose(Pose):
    """The task pose with a model of Sapiens2. Crops are computed in float32, and enlarged with a cubic."""

    @property
    def whole_photo(self) -> str:
        return "whole-sapiens2" if self.options.boxes.source == "none" else ""

    def boxes(self, row: Row) -> np.ndarray:
        """As those of Sapiens; the box of a whole photo ends at the centre of its last pixel, as in Sapiens2's demo."""
        boxes = super().boxes(row)
        if self.options.boxes.source == "none":
            boxes[:, 2:4] -= 1
        return boxes

    def crop(self, photo: np.ndarray, box: np.ndarray) -> np.ndarray:
        return crops.sapiens2_crop(photo, self._geometry(box, photo.shape[1], photo.shape[0]))

    def _geometry(self, box: np.ndarray, width: int, height: int) -> crops.Crop:
        return crops.sapiens2_geometry(box)


class StoredPose(StoredPersons):
    """Persons with keypoints."""

    @property
    def left_out_of_lite(self) -> str:
        return ""

    def lite_files(self, row: Row) -> Files:
        """`.json`, `{"instance_info": [{"keypoints": [[x, y], …], "keypoint_scores": […]}, …]}`."""
        info = [{"keypoints": person["keypoints"], "keypoint_scores": person["scores"]} for person in self.persons(row)]
        return [(".json", json.dumps({"instance_info": info}, indent="\t").encode())]

    @property
    def unknown_to_sapiens2(self) -> str:
        return ""

    def sapiens2_files(self, row: Row) -> Files:
        """`.json` with what Sapiens2's demo writes of a frame: `{"image_name", "image_size": [width, height],
        "instances": [{"bbox", "keypoints", "keypoint_scores"}, …]}`. The demo has one file for all of a folder."""
        instances = [
            {"bbox": person["box"], "keypoints": person["keypoints"], "keypoint_scores": person["scores"]}
            for person in self.persons(row)
        ]
        frame = {"image_name": row["image_id"], "image_size": [row["width"], row["height"]], "instances": instances}
        return [(".json", json.dumps(frame).encode())]


TASK = TaskKind("pose", PoseOptions, Pose, StoredPose, {SAPIENS2: Sapiens2Pose})
