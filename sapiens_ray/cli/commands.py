"""The command line: run | check | status | export | checkpoints | convert | schema."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from sapiens_ray.cli.arguments import folder_of, storage_arguments
from sapiens_ray.cli.export import add_export
from sapiens_ray.errors import SapiensRayError
from sapiens_ray.version import __version__

if TYPE_CHECKING:
    from sapiens_ray.job.config import Job
    from sapiens_ray.output.summary import Summary


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 not finished, 2 wrong job file or usage, 130 or 143
    stopped by Ctrl-C or SIGTERM."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        parsed = _parser(given).parse_args(given)
        return int(parsed.command(parsed))
    except SapiensRayError as error:
        from sapiens_ray.storage.uris import redact_uris_in

        print(f"sapiens-ray: {redact_uris_in(str(error))}", file=sys.stderr)
        if os.environ.get("SAPIENS_RAY_DEBUG"):
            traceback.print_exception(error)
        return error.exit_code
    except BrokenPipeError:  # `sapiens-ray schema | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sapiens-ray",
        description="Label image datasets with Meta's Sapiens models, on a laptop or a Ray cluster.",
    )
    parser.add_argument("--version", action="version", version=f"sapiens-ray {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="label the images of a job; run it again to continue after a stop")
    _job_arguments(run)
    run.add_argument(
        "--redo-changed",
        action="store_true",
        help="label tars and Parquet files again if they changed since they were planned",
    )
    run.add_argument("--retry-errors", action="store_true", help="label the images of error rows again")
    run.add_argument(
        "--restart", action="store_true", help="delete what earlier runs wrote to the output, after a confirmation"
    )
    run.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="validate a job and show what it would do, without doing it")
    _job_arguments(check)
    check.add_argument("--load", action="store_true", help="also load each model and run it once")
    check.set_defaults(command=_check)

    status = commands.add_parser("status", help="show the progress of an output folder, from its files alone")
    status.add_argument("output", help="the output folder, local or a URL")
    status.add_argument("--json", action="store_true", help="print JSON")
    storage_arguments(status)
    status.set_defaults(command=_status)

    add_export(commands, is_given="export" in arguments[:1])

    from sapiens_ray.cli.checkpoints import add_commands

    add_commands(commands)

    schema = commands.add_parser("schema", help="print the JSON schema of the job file, for editors")
    schema.set_defaults(command=_schema)
    return parser


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="the YAML job file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override a field, such as output.uri=/data/labels or tasks.0.batch_size=4; "
        "relative paths given here are relative to the current folder",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--limit", type=_count, metavar="N",
        help="only the first N images, into an output of their own, unless --set output.uri=… names one",
    )  # fmt: skip
    which.add_argument("--sample", type=_count, metavar="N", help="only N images drawn at random, in the same way")
    parser.add_argument("--seed", type=int, default=0, help="of --sample; default: 0")
    parser.add_argument("--address", help="Ray cluster to use; default: $RAY_ADDRESS, else a local one")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of images, 1 or more")
    return int(text)


def _load_job(arguments: argparse.Namespace) -> Job:
    """The job on the command line. A trial run (--limit, --sample) has an output of its own unless one is named."""
    from sapiens_ray.job.config import Job
    from sapiens_ray.planning.subset import make_subset

    job = Job.load(arguments.job, arguments.overrides)
    subset = make_subset(arguments.limit, arguments.sample, arguments.seed)
    if subset is None or any(override.partition("=")[0] == "output.uri" for override in arguments.overrides):
        return job
    output = job.output.model_copy(update={"uri": job.output.uri.rstrip("/") + subset.suffix})
    return job.model_copy(update={"output": output})


def _run(arguments: argparse.Namespace) -> int:
    job = _load_job(arguments)
    _leave_on_signals()  # while libraries are imported, which do not expect exceptions at any point
    from sapiens_ray.cli.progress import ProgressView
    from sapiens_ray.cli.report import print_summary
    from sapiens_ray.execution.pipeline import run

    if arguments.restart and not arguments.yes:
        _ask_before_deleting(job)
    stop = _StopSignals()
    view = ProgressView()
    last: list[Summary] = []

    def on_progress(summary: Summary) -> None:
        last[:] = [summary]
        view(summary)

    try:
        with stop.installed(), view:
            run(
                job,
                address=arguments.address,
                redo_changed=arguments.redo_changed,
                retry_errors=arguments.retry_errors,
                restart=arguments.restart,
                limit=arguments.limit,
                sample=arguments.sample,
                seed=arguments.seed,
                on_progress=on_progress,
                on_ray_ready=stop.install,  # after ray.init(), which installs its own handlers
                on_wait=lambda line: print(line, file=sys.stderr),
            )
    except (_Stopped, SystemExit) as stopped:
        if isinstance(stopped, SystemExit):  # from Ray's own handler, between ray.init() and ours
            stopped = _Stopped(signal.SIGTERM)
        if last:
            print(
                f"Stopped. {last[0].line()}. Run the same command again to continue.",
                file=sys.stderr,
                flush=True,
            )
        _leave(stopped.exit_code)
    except SapiensRayError:
        if last:
            print_summary(last[0])
        raise
    print_summary(last[0])
    return 0


def _ask_before_deleting(job: Job) -> None:
    """Raise OutputError unless the user agrees, or there is nothing to delete."""
    from sapiens_ray.errors import OutputError
    from sapiens_ray.execution.preflight import open_output
    from sapiens_ray.output.done import done_by_shard, list_units
    from sapiens_ray.output.layout import has_results

    output = open_output(job)
    if not has_results(output):
        return
    rows = sum(done.rows for done in done_by_shard(list_units(output)).values())
    what = f"--restart deletes the labels of {rows} images and their pictures in {output.uri}"
    if not sys.stdin.isatty():
        raise OutputError(f"{what}; add --yes, since there is no terminal to ask for confirmation")
    try:
        answer = input(f"{what}. Continue? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise OutputError(f"nothing was deleted; without --restart the run continues with what is in {output.uri}")


def _leave_on_signals() -> None:
    """Exit immediately, with a message, on SIGINT and SIGTERM: nothing has been started."""

    def leave(number: int, frame: FrameType | None) -> None:
        os.write(2, b"Stopped before anything was done.\n")
        os._exit(128 + number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, leave)
        signal.signal(signal.SIGTERM, leave)


class _Stopped(BaseException):
    """The process received SIGINT or SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class _StopSignals:
    """Turns the first SIGINT or SIGTERM into _Stopped, raised in the main thread."""

    def install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handle)
            signal.signal(signal.SIGTERM, self._handle)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        self.install()
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before[0])
            signal.signal(signal.SIGTERM, before[1])

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A second signal, or a cleanup that takes too long, ends the process immediately.
        signal.signal(number, lambda *_: os._exit(128 + number))
        timer = threading.Timer(_killed_after_s(), lambda: os._exit(128 + number))
        timer.daemon = True
        timer.start()
        raise _Stopped(number)


def _killed_after_s() -> float:
    """When `ray job stop` kills a process after SIGTERM: 3 s, or what Ray's own variable says."""
    try:
        return float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "3"))
    except ValueError:
        return 3.0


def _leave(code: int) -> NoReturn:
    """End the process within seconds: our tasks are safe to interrupt."""
    from sapiens_ray.execution.cluster import stop_ray

    stop_ray(max(0.0, _killed_after_s() - 1))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _check(arguments: argparse.Namespace) -> int:
    from sapiens_ray.cli.report import print_plan
    from sapiens_ray.planning.subset import make_subset

    job = _load_job(arguments)
    subset = make_subset(arguments.limit, arguments.sample, arguments.seed)
    print_plan(job, arguments.address, arguments.load, subset)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from sapiens_ray.cli.report import print_status
    from sapiens_ray.planning.status import output_status

    status = output_status(folder_of(arguments.output, arguments))
    if arguments.json:
        print(json.dumps(status, indent=2))
    else:
        print_status(status)
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from sapiens_ray.job.config import Job

    print(json.dumps(Job.model_json_schema(), indent=2))
    return 0
