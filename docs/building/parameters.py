"""How docstrings of this project say what parameters are, as lists: a sentence that starts with names of parameters."""

from __future__ import annotations

import re

import griffe


class Parameters(griffe.Extension):
    """Lets each parameter that a docstring explains (`name: …`, `name, name: …`) begin an entry of a list."""

    def on_function_instance(self, *, func: griffe.Function, **kwargs: object) -> None:
        if func.docstring:
            func.docstring.value = listed(func.docstring.value, [parameter.name for parameter in func.parameters])

    def on_class_instance(self, *, cls: griffe.Class, **kwargs: object) -> None:
        if cls.docstring:
            cls.docstring.value = fenced(cls.docstring.value)


def listed(text: str, parameters: list[str]) -> str:
    """The text with a list entry for each parameter; what it raises begins a paragraph."""
    one = "|".join(map(re.escape, parameters))
    names = rf"(?:{one})(?:, (?:{one}))*"
    blocks = []
    for block in text.split("\n\n"):
        if block.lstrip().startswith(">>>"):
            blocks.append(fenced(block))
            continue
        flat = re.sub(r"\n\s*", " ", block) if re.search(rf"(?:^|[.\n] *)({names}): ", block) else block
        flat = re.sub(rf"(?:^|(?<=\.) )({names}): ", lambda match: f"\n- {_code(match[1])}: ", flat)
        flat = re.sub(r"(?<=[.)]) (?=(?:Raises|A bad image) )", "\n\n", flat)
        blocks.append(flat.strip("\n"))
    return "\n\n".join(blocks)


def fenced(text: str) -> str:
    """The text with its examples (`>>> …`) as blocks of code."""
    return re.sub(
        r"((?:^>>> .*\n?(?:^(?!>>>).+\n?)*)+)", lambda match: f"```python\n{match[1].rstrip()}\n```\n", text, flags=re.M
    )


def _code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))
