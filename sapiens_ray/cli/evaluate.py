"""`sapiens-ray evaluate`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sapiens_ray.cli.answers import error_message, print_json
from sapiens_ray.cli.arguments import (
    Subparsers,
    add_json,
    add_quiet,
    folder_of,
    from_zero,
    storage_arguments,
    with_examples,
)
from sapiens_ray.cli.console import one_line, tell
from sapiens_ray.cli.steps import Steps
from sapiens_ray.cli.targets import file_target
from sapiens_ray.errors import ConfigError, OutputError, StorageError

if TYPE_CHECKING:
    from sapiens_ray.evaluation.result import Evaluation, Images, Metric
    from sapiens_ray.storage import Folder

EXIT_CODES = """\
Exit codes: 0 done; 1 done, but files of the ground truth or labels could not
be used, the file of --to cannot be written, or a storage does not answer;
2 the command line, the output or the ground truth is wrong."""
SHOWN_FAILURES = 5


def add_evaluate(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    evaluate = commands.add_parser(
        "evaluate", help="compare labels with ground truth",
        **with_examples(
            "sapiens-ray evaluate runs/coco --task persons \\",
            "    --ground-truth person_keypoints_val2017.json",
            "sapiens-ray evaluate runs/people --task seg --ground-truth annotations/",
            "sapiens-ray evaluate runs/people --task depth --ground-truth depth/ \\",
            "    --mask masks/ --to depth.json",
            after=EXIT_CODES,
        ),
    )  # fmt: skip
    evaluate.add_argument("output", help="the output folder, local or a URL")
    evaluate.add_argument(
        "--ground-truth", required=True, metavar="PATH",
        help="keypoints: a COCO JSON file; seg: a folder of index PNGs; depth: of .npy, .npz or 16-bit PNG; normal: of "
        ".npy or .npz; local or a URL",
    )  # fmt: skip
    evaluate.add_argument("--task", required=True, metavar="COLUMN", help="column of the task, such as seg or persons")
    evaluate.add_argument(
        "--mask", metavar="DIR", help="depth and normal: folder of masks, PNG or .npy; only pixels above 0 count"
    )
    evaluate.add_argument(
        "--oks-nms", choices=("auto", "on", "off"), default="auto",
        help="keypoints: drop persons with an OKS above 0.9 to a better one; auto, the default: if boxes have scores",
    )  # fmt: skip
    evaluate.add_argument(
        "--sigmas", type=_sigmas, metavar="S[,S,...]",
        help="keypoints of your own whose job gave no sigmas: COCO's constants, one for all or one for each keypoint",
    )  # fmt: skip
    evaluate.add_argument(
        "--bootstrap", type=from_zero, metavar="N",
        help="resamples for the 95 %% intervals, 0 for none; default: 1000, for keypoints 100",
    )  # fmt: skip
    evaluate.add_argument("--seed", type=from_zero, default=0, metavar="S", help="of the resamples; default: 0")
    evaluate.add_argument("--to", metavar="FILE.json", help="also write what --json prints to a file, local or a URL")
    add_json(evaluate)
    add_quiet(evaluate, "print nothing but errors and one line with the result")
    storage_arguments(evaluate)
    evaluate.set_defaults(command=_evaluate)


def _sigmas(text: str) -> tuple[float, ...]:
    """Numbers above 0 and at most 1, separated by commas."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (0.0,)
    if not all(0 < number <= 1 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers above 0 and at most 1; COCO's are 0.025 to 0.107")
    return numbers


def _evaluate(arguments: argparse.Namespace) -> int:
    from sapiens_ray.evaluation.evaluate import evaluate
    from sapiens_ray.evaluation.request import Request
    from sapiens_ray.storage import translate_errors

    source = folder_of(arguments.output, arguments)
    if arguments.to and not arguments.to.endswith(".json"):
        raise ConfigError(f"--to {arguments.to}: should be the name of a .json file")
    target = file_target(arguments, [source], "evaluation.json", [arguments.ground_truth]) if arguments.to else None
    with Steps(arguments.quiet) as progress, translate_errors(OutputError, f"cannot read {arguments.output}"):
        request = Request(
            column=arguments.task,
            ground_truth=arguments.ground_truth,
            mask=folder_of(arguments.mask, arguments) if arguments.mask else None,
            bootstrap=arguments.bootstrap,
            seed=arguments.seed,
            oks_nms=arguments.oks_nms,
            sigmas=arguments.sigmas,
            storage_options=source.options,
            progress=progress,
        )
        found = evaluate(source, request)
    _print(found, arguments)
    _tell_failures(found.images)
    # Only then the file: where it cannot be written, the numbers are not lost.
    written = _write(*target, arguments.to, found) if target else True
    return 1 if found.images.failed or not written else 0


def _write(folder: Folder, name: str, to: str, found: Evaluation) -> bool:
    """Write the result as JSON. to: the file in messages. Whether it was written; if not, stderr says why: stdout has
    its answer already."""
    import json

    from sapiens_ray.storage import translate_errors

    try:
        with translate_errors(StorageError, f"--to {to}: cannot be written"):
            folder.write(name, (json.dumps(found.as_json(), indent=2) + "\n").encode())
    except StorageError as error:
        tell(f"sapiens-ray: {error_message(error)}")
        return False
    return True


def _print(found: Evaluation, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(found.as_json())
    elif arguments.quiet:
        whole = found.metrics[-1].part
        print(", ".join(f"{one.name} {_value(one, one.value)}" for one in found.metrics if one.part == whole))
    else:
        _print_tables(found)


def _print_tables(found: Evaluation) -> None:
    from sapiens_ray.cli.tables import Facts

    table = Facts()
    table.add_whole("output", found.output)
    table.add("task", f"{found.column} ({found.kind})" if found.column != found.kind else found.column)
    table.add_whole("ground truth", found.ground_truth)
    for number, line in enumerate(_images(found.images, found.kind)):
        table.add("images" if number == 0 else "", line)
    for key, value in found.protocol.items():
        table.add(key.replace("_", " "), _setting(value))
    for note in found.notes:
        table.add("note", note)
    table.print()
    print()
    _print_metrics(found.metrics)
    if found.classes:
        print()
        _print_classes(found)


def _setting(value: object) -> str:
    """A value of the protocol in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "off" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _images(images: Images, kind: str) -> list[str]:
    """How rows and ground truth fit together, in words."""
    from sapiens_ray.output.summary import counted

    lines = [f"{images.evaluated} compared, of {counted(images.rows, 'row')}"]
    if kind != "pose" and images.error_rows:
        lines.append(f"{counted(images.error_rows, 'error row')}, left out")
    elif kind == "pose" and images.error_rows_with_truth:  # the others are among the rows without ground truth
        lines.append(f"{counted(images.error_rows_with_truth, 'error row')}, counted as images without a person")
    if images.without_truth:
        names = _some(images.without_truth_examples, images.without_truth)
        lines.append(f"{counted(images.without_truth, 'row')} without ground truth: {names}")
    if images.truth_without_row:
        names = _some(images.truth_without_row_examples, images.truth_without_row)
        lines.append(
            f"{counted(images.truth_without_row, 'image')} of the ground truth without a row, left out: {names}"
        )
    if images.failed:
        lines.append(f"{len(images.failed)} left out, as the ground truth or the labels cannot be used")
    return lines


def _some(names: list[str], of: int) -> str:
    return ", ".join(map(one_line, names)) + (", …" if of > len(names) else "")


def _print_metrics(metrics: list[Metric]) -> None:
    """All metrics; of the parts of a body, apart from the last one, only AP and AR."""
    from sapiens_ray.cli.tables import print_columns

    whole = metrics[-1].part
    several = any(one.part != whole for one in metrics)
    shown = [one for one in metrics if one.part == whole or one.name in ("AP", "AR")]
    titles, right = ["metric", "value", "95 % interval"], [False, True, True]
    if any(one.published is not None for one in shown):
        titles, right = [*titles, "published"], [*right, True]
    rows = []
    for one in shown:
        span = f"{_value(one, one.low)} to {_value(one, one.high)}" if one.low is not None else "-"
        name = f"{one.part} {one.name}" if several else one.name
        rows.append([name, _value(one, one.value), span, _value(one, one.published)])
    print_columns(titles, [row[: len(titles)] for row in rows], right)


def _print_classes(found: Evaluation) -> None:
    from sapiens_ray.cli.tables import print_columns

    rows = [
        [str(one.id), one.name, _number(one.iou), _number(one.accuracy), str(one.truth_pixels),
         str(one.predicted_pixels)]
        for one in found.classes
    ]  # fmt: skip
    titles = ("class", "name", "IoU", "Acc", "true pixels", "predicted")
    print_columns(titles, rows, (True, False, True, True, True, True))


def _value(metric: Metric, value: float | None) -> str:
    """A value in the unit of its metric: degrees with two digits, shares with four."""
    return _number(value, 2) if metric.unit == "degrees" else _number(value)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _tell_failures(images: Images) -> None:
    """Name the images whose ground truth or labels cannot be used, on stderr."""
    for one in images.failed[:SHOWN_FAILURES]:
        tell(f"sapiens-ray: {one_line(one.image_id)}: {one_line(one.error)}")
    if len(images.failed) > SHOWN_FAILURES:
        tell(f"sapiens-ray: and {len(images.failed) - SHOWN_FAILURES} more; --json names them all")
