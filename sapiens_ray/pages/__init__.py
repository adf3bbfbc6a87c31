"""Self-contained HTML pages and contact sheets. Knows nothing of outputs: callers bring texts, numbers and pictures."""

from sapiens_ray.pages.blocks import (
    Bar,
    Bars,
    Block,
    Facts,
    HeatTable,
    Histogram,
    Note,
    Page,
    Picture,
    Section,
    Sheet,
    Svg,
    Table,
    Text,
)
from sapiens_ray.pages.contact_sheet import contact_sheet
from sapiens_ray.pages.gallery import Gallery, Layer, Measure, Vocabulary
from sapiens_ray.pages.render import render_page
from sapiens_ray.pages.thumbnails import data_uri, fitted

__all__ = [
    "Bar",
    "Bars",
    "Block",
    "Facts",
    "Gallery",
    "HeatTable",
    "Histogram",
    "Layer",
    "Measure",
    "Note",
    "Page",
    "Picture",
    "Section",
    "Sheet",
    "Svg",
    "Table",
    "Text",
    "Vocabulary",
    "contact_sheet",
    "data_uri",
    "fitted",
    "render_page",
]
