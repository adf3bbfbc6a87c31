"""The section of the job file that names a COCO file with the boxes of persons."""

from __future__ import annotations

import hashlib
import json

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from sapiens_ray.tasks.sections import Section, Settings


class CocoOptions(Section):
    """A COCO file with the boxes of persons; a path alone stands for `file`."""

    file: str | None = Field(
        None,
        min_length=1,
        description="A ground-truth file (an object with `images` and `annotations`) or a list of detections "
        "({image_id, category_id, bbox, score}); a path (relative to the YAML) or any fsspec URL.",
    )
    detections: str | None = Field(
        None, min_length=1, description="In place of `file`: a list of detections, whose images `images` names."
    )
    images: str | None = Field(
        None,
        min_length=1,
        description="With `detections`: a COCO file whose `images` have the ids and file names. Without it, an image "
        "has the number in its file name, as 139 for 000000000139.jpg.",
    )
    min_score: float = Field(0, ge=0, description="Detections with a lower score are left out.")

    @model_validator(mode="before")
    @classmethod
    def _plain_path(cls, value: object) -> object:
        return {"file": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_file(self) -> CocoOptions:
        if (self.file is None) == (self.detections is None):
            raise ValueError("give either `file` or `detections`")
        if self.file is not None and self.images is not None:
            raise ValueError("`images` goes with `detections`, not with `file`")
        return self

    @property
    def uri(self) -> str:
        """The file with the boxes."""
        return str(self.file or self.detections)

    @property
    def key(self) -> str:
        """Identifies these boxes among those of the job."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:12]

    def result_settings(self) -> Settings:
        """Without the places of the files: their content counts, see `BoxFile.sha256`."""
        return {"min_score": self.min_score}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> Settings:
        return {"anyOf": [{"type": "string", "minLength": 1}, handler(core)]}
