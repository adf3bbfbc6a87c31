"""Pieces of Markdown, made of text that may hold anything."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table. The cells are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def folded(title: str, body: str) -> str:
    """A section that is closed until it is clicked. title, body: Markdown."""
    return f"## {title}\n\n<details><summary>Show the table</summary>\n\n{body}\n\n</details>"


def fenced(text: str, language: str) -> str:
    """A block of code, with a fence that is not in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def inline(text: str) -> str:
    """Text in a line, where it starts no Markdown and no HTML."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{sign}" if sign in r"\`*_[]#|" else sign for sign in plain)


def code(text: str) -> str:
    """Text as code in a line or in a cell of a table."""
    return f"`{' '.join(text.split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"
