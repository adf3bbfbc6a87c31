"""Exports: labels in the formats of other tools. One module per format."""

from __future__ import annotations

from sapiens_ray.export.base import Export, Exported, Option
from sapiens_ray.registry import Registry

__all__ = ["EXPORTS", "Export", "Exported", "Option"]

EXPORTS: Registry[Export] = Registry(
    "sapiens_ray.exports",
    Export,
    {
        "lite": "sapiens_ray.export.lite:EXPORT",
        "sapiens2": "sapiens_ray.export.sapiens2:EXPORT",
        "coco": "sapiens_ray.export.coco:EXPORT",
        "coco-results": "sapiens_ray.export.coco_results:EXPORT",
        "coco-panoptic": "sapiens_ray.export.coco_panoptic:EXPORT",
        "masks": "sapiens_ray.export.masks:EXPORT",
        "yolo-pose": "sapiens_ray.export.yolo_pose:EXPORT",
        "yolo-seg": "sapiens_ray.export.yolo_seg:EXPORT",
        "depth16": "sapiens_ray.export.depth16:EXPORT",
        "normals": "sapiens_ray.export.normals:EXPORT",
        "ply": "sapiens_ray.export.ply:EXPORT",
        "webdataset": "sapiens_ray.export.webdataset:EXPORT",
        "label-studio": "sapiens_ray.export.label_studio:EXPORT",
        "cvat": "sapiens_ray.export.cvat:EXPORT",
        "fiftyone": "sapiens_ray.export.fiftyone:EXPORT",
        "huggingface": "sapiens_ray.export.huggingface.dataset:EXPORT",
        "video": "sapiens_ray.export.video:EXPORT",
    },
)
