"""A page as one HTML file that needs nothing else: style and script are inside, and it may not load anything."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from sapiens_ray.pages.blocks import Cell, Page, Rgb, Text


def render_page(page: Page) -> str:
    """The page as HTML text. All texts of the page are escaped."""
    environment = _environment()
    gallery = page.gallery
    return environment.get_template("page.html").render(
        page=page,
        style=_verbatim("page.css"),
        script=_verbatim("gallery.js"),
        data=Markup(gallery.to_json()) if gallery else None,
    )


def _verbatim(name: str) -> Markup:
    """A file of the package that is no template."""
    return Markup((files("sapiens_ray.pages") / "templates" / name).read_text(encoding="utf-8"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sapiens_ray.pages"),
        autoescape=True,  # whatever the name of the template
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"rgb": rgb, "cell": cell, "percent": percent, "breakable": breakable}
    return environment


def rgb(colour: Rgb) -> str:
    """A colour for CSS: #rrggbb."""
    return "#" + "".join(f"{value:02x}" for value in colour)


def cell(value: Cell) -> Text:
    """A cell of a table, also where only its text is given. None becomes a dash."""
    if isinstance(value, Text):
        return value
    if value is None:
        return Text("–")  # noqa: RUF001
    return Text(f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else value)


def breakable(name: str) -> Markup:
    """A name that may be broken behind its underscores."""
    return Markup(escape(name).replace("_", Markup("_<wbr>")))


def percent(share: float) -> str:
    """A share for people: 0.2 %, 34 %."""
    if share <= 0:
        return "0 %"
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"
