"""Mermaid diagrams as SVG, drawn when the site is built: in a browser they would need a script of another server."""

from __future__ import annotations

import re

import mermaidx

FONT = '"DejaVu Sans", Verdana, sans-serif'  # its widths are those that mermaidx lays text out with


def drawn(fence: str, name: str) -> str:
    """A figure with the diagram of a fenced block of Mermaid. name: an id that no other diagram of the site has."""
    source = fence.removeprefix("```mermaid\n").removesuffix("```")
    identifier = f"diagram-{re.sub(r'[^a-z0-9]+', '-', name)}"
    svg = mermaidx.render(source, theme="neutral", config={"fontFamily": FONT, "fontSize": 14}).svg()
    svg = svg.decode() if isinstance(svg, bytes) else svg
    svg = svg.replace("my-svg", identifier).replace("\n", " ")
    return f'<figure class="diagram">{svg}</figure>'
