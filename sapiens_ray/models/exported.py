"""Programs of torch.export that are not Sapiens models, and so have to run as they are.

torch trusts such files: it unpickles some members, evaluates expressions as Python, loads compiled libraries, and
calls any function of its namespace that a graph names. So a file is inspected first. It is refused unless all of its
content is of the few kinds that exporting a plain network gives.
"""

from __future__ import annotations

import ast
import io
import json
import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from sapiens_ray.errors import CheckpointError, first_line

_MEMBERS = re.compile(
    r"[^/]+/(models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)|version|\.format_version"
    r"|\.storage_alignment)"
)
# Sizes are sums and products of symbols, as sympy writes them: Mul(Integer(2), Symbol('s77', positive=True)).
_SYMBOL = re.compile(r"[su]\d+")
_FUNCTIONS = ("Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "FloorDiv", "CleanDiv")
_PARTS = (ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.UnaryOp, ast.USub)
_TARGETS = re.compile(
    r"torch\.ops\.(aten|prim|prims)\.(?!from_file)\w+\.\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|getitem|eq|ne|lt|le|gt|ge)|torch\.sym_(max|min|int|float)"
)


def load_export(path: Path) -> torch.export.ExportedProgram:
    """A program of torch.export that the running torch can load, on the CPU. Raises CheckpointError for all others."""
    _refuse_executable_content(path)
    logger = logging.getLogger("torch.export")
    level = logger.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logger.setLevel(logging.CRITICAL)  # it prints a traceback of the exception that it then raises
            return torch.export.load(str(path))
    except Exception as error:  # of many kinds, from inside torch
        raise CheckpointError(
            f"{path} was exported by another torch than the running {torch.__version__}, and is not a Sapiens model "
            f"whose weights could be used: {first_line(error)}"
        ) from None
    finally:
        logger.setLevel(level)


def _refuse_executable_content(path: Path) -> None:
    """Raise CheckpointError if a file holds code or objects that loading or running it would execute."""
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        for member in members:
            if not _MEMBERS.fullmatch(member) or members.count(member) > 1:
                raise CheckpointError(f"{path}: {member} is not part of a plain exported network; not loaded")
        for member in members:
            if member.endswith(".pt"):
                try:
                    torch.load(io.BytesIO(archive.read(member)), weights_only=True, map_location="cpu")
                except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
                    raise CheckpointError(f"{path}: {member} holds pickled objects: {first_line(error)}") from None
            elif member.endswith(".json"):
                for key, value in _fields(json.loads(archive.read(member))):
                    _refuse_code(path, member, key, value)


def _refuse_code(path: Path, member: str, key: str, value: object) -> None:
    what = None
    if key == "use_pickle" and value:
        what = "pickled objects"
    elif key == "expr_str" and not _is_arithmetic(value):
        what = f"an expression that is not plain arithmetic, {value!r}"
    elif key == "target" and isinstance(value, str) and not _TARGETS.fullmatch(value):
        what = f"a call of {value!r}, which is not an operator of torch"
    if what:
        raise CheckpointError(f"{path}: {member} holds {what[:200]}; not loaded")


def _is_arithmetic(expression: object) -> bool:
    """Whether an expression, which torch would evaluate, consists only of arithmetic with sizes."""
    if not isinstance(expression, str):
        return False
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)]
    return (
        all(isinstance(node, _PARTS) for node in nodes)
        and all(name in _FUNCTIONS or _SYMBOL.fullmatch(name) for name in names)
        and all(isinstance(text, str) and _SYMBOL.fullmatch(text) for text in texts)
    )


def _fields(value: object) -> Iterator[tuple[str, object]]:
    """Every key of a nested JSON value, with its value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _fields(item)
    elif isinstance(value, list):
        for item in value:
            yield from _fields(item)
