"""`sapiens-ray completion`: a script with which a shell completes our commands.

The script is made from the parser by shtab and holds all names, so the shell starts no Python to complete a word.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sapiens_ray.cli.arguments import Subparsers, with_examples

SHELLS = ("bash", "zsh", "fish")
JOBS = ("*.yaml", "*.yml")


def add_completion(commands: Subparsers[argparse.ArgumentParser], full_parser: Callable[[], Any]) -> None:
    """Add the command to the parser. full_parser: makes the parser with the options of all commands."""
    completion = commands.add_parser(
        "completion", help="print a script with which a shell completes commands, options and names",
        **with_examples(
            "sapiens-ray completion bash > sapiens-ray.bash; source sapiens-ray.bash",
            "sapiens-ray completion zsh > ~/.zfunc/_sapiens-ray",
            "sapiens-ray completion fish > ~/.config/fish/completions/sapiens-ray.fish",
        ),
    )  # fmt: skip
    completion.add_argument("shell", choices=SHELLS, help="which shell")
    completion.set_defaults(command=lambda arguments: _completion(arguments, full_parser()))


def _completion(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    import shtab

    for command in _commands(parser):
        for action in command._actions:
            _explain(action)
    print(shtab.complete(parser, shell=arguments.shell, root_prefix="sapiens_ray"))
    return 0


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of all its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _commands(command)


def _explain(action: argparse.Action) -> None:
    """Tell shtab, by the attribute `complete`, what an argument without choices may be."""
    import shtab

    from sapiens_ray.models.catalogue import CATALOGUE
    from sapiens_ray.tasks import TASKS

    kinds = list(dict.fromkeys(model.kind for model in CATALOGUE.values()))
    known: dict[str, Any] = {
        "job": shtab.glob(*JOBS),
        "output": shtab.DIRECTORY,
        "a": shtab.DIRECTORY,
        "b": shtab.DIRECTORY,
        "names": _words("checkpoints", list(CATALOGUE)),
        "task": _words("columns", [*TASKS, "persons"]),
        "tasks": _words("tasks", [*TASKS, *kinds, *CATALOGUE]),
    }
    if action.dest in known:
        complete = known[action.dest]
    elif action.metavar == "DIR":
        complete = shtab.DIRECTORY
    elif action.metavar in ("FILE", "IMAGE", "INPUT", "PATH"):
        complete = shtab.FILE
    else:
        return
    if not action.choices:
        action.complete = complete  # type: ignore[attr-defined]


def _words(what: str, words: Sequence[str]) -> dict[str, Any]:
    """What shtab's `complete` is for one of these words. what: a name for them, unique among all."""
    function = f"_sapiens_ray_{what}"
    text = " ".join(words)
    bash = f'{function}() {{\n  compgen -W "{text}" -- "$1"\n}}\n'
    return {"bash": function, "zsh": f"({text})", "fish": text, "preamble": {"bash": bash}}
