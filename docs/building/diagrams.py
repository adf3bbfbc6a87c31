"""Mermaid diagrams as SVG, drawn when the site is built: in a browser they would need a script of another server."""

from __future__ import annotations

import re

import mermaidx

FONT = '"DejaVu Sans", Verdana, sans-serif'  # whose widths mermaidx lays text out with
SMALLEST = 0.55  # of its natural size, at which words are still read; narrower windows scroll


def drawn(fence: str, name: str) -> str:
    """A figure with the diagram of a fenced block of Mermaid. name: an id that no other diagram of the site has."""
    source = fence.removeprefix("```mermaid\n").removesuffix("```")
    svg = mermaidx.render(source, theme="neutral", config={"fontFamily": FONT, "fontSize": 14}).svg()
    width = float(re.search(r'viewBox="\S+ \S+ (\S+) ', svg)[1])
    svg = svg.replace("my-svg", f"diagram-{re.sub(r'[^a-z0-9]+', '-', name)}").replace("\n", " ")
    svg = svg.replace('style="', f'style="min-width: {width * SMALLEST:.0f}px; ', 1)
    return f'<figure class="diagram">{svg}</figure>'
