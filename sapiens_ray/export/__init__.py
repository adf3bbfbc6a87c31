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
        "masks": "sapiens_ray.export.masks:EXPORT",
    },
)
