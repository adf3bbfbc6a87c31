"""The command line: a function per command, or a module for those with more to say."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sapiens_ray.cli.answers import error_fields, error_message, print_json
from sapiens_ray.cli.arguments import (
    Parser,
    UsageError,
    add_json,
    add_quiet,
    at_least_one,
    overrides_argument,
    with_examples,
)
from sapiens_ray.cli.compare import add_compare
from sapiens_ray.cli.completion import add_completion
from sapiens_ray.cli.console import is_live
from sapiens_ray.cli.evaluate import add_evaluate
from sapiens_ray.cli.export import add_export
from sapiens_ray.cli.init import add_init
from sapiens_ray.cli.preview import add_preview
from sapiens_ray.cli.query import add_query
from sapiens_ray.cli.report import add_report
from sapiens_ray.cli.status import add_status
from sapiens_ray.cli.stopping import prepare_exit
from sapiens_ray.errors import ConfigError, SapiensRayError
from sapiens_ray.version import __version__

if TYPE_CHECKING:
    from sapiens_ray.cli.events import RunEvents
    from sapiens_ray.cli.progress import ProgressView
    from sapiens_ray.execution.cluster import Cluster
    from sapiens_ray.execution.placement import ResourcePlan
    from sapiens_ray.execution.preflight import PreparedJob
    from sapiens_ray.job.config import Job
    from sapiens_ray.output.summary import Summary
    from sapiens_ray.planning.subset import Subset


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 not finished, 2 wrong job file or usage, 130 or 143
    stopped by Ctrl-C or SIGTERM."""
    given = sys.argv[1:] if arguments is None else arguments
    _prepare_streams()
    try:
        parsed = _parser(given).parse_args(given)
    except UsageError as error:
        print(f"{error.usage}{error.prog}: error: {error}", file=sys.stderr)
        if "--json" in given and given[0] == "run":
            from sapiens_ray.cli.events import RunEvents

            RunEvents().ended("failed", 2, error)
        else:
            _answer_error(error, 2, "--json" in given)
        return 2
    except SapiensRayError as error:  # an export of another package
        return _failed(error, "--json" in given)
    as_json = getattr(parsed, "json", False) and not getattr(parsed, "answers_errors", False)
    _limit_messages(getattr(parsed, "quiet", False))
    try:
        code = int(parsed.command(parsed))
        if arguments is None:  # not inside another program
            prepare_exit()
        return code
    except SapiensRayError as error:
        return _failed(error, as_json)
    except BrokenPipeError:  # `sapiens-ray schema | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:  # `run` has its own handler
        print("Stopped.", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:  # a bug: with its traceback, and a script must know as well
        _answer_error(error, 1, as_json)
        raise


def _prepare_streams() -> None:
    """Let both streams show any text: an image id may hold what the encoding of a terminal or a pipe cannot say."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _limit_messages(quiet: bool) -> None:
    """Configure what libraries and our own modules tell on stderr, besides what the commands print."""
    logging.getLogger("sapiens_ray").setLevel(logging.ERROR if quiet else logging.WARNING)
    if quiet or not is_live(sys.stderr):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _failed(error: SapiensRayError, as_json: bool) -> int:
    """Tell an error, to a person and to a script if one asked. Returns the exit code."""
    print(f"sapiens-ray: {error_message(error)}", file=sys.stderr)
    if os.environ.get("SAPIENS_RAY_DEBUG"):
        traceback.print_exception(error)
    _answer_error(error, error.exit_code, as_json)
    return error.exit_code


def _answer_error(error: Exception, exit_code: int, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**error_fields(error), "exit_code": exit_code}))


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="sapiens-ray",
        description="Label image datasets with Meta's Sapiens models, on a laptop or a Ray cluster.",
        epilog="Exit codes: 0 done; 1 not finished, or too many error rows; 2 the job file, or what it names, is "
        "wrong; 130 stopped by Ctrl-C; 143 stopped by SIGTERM.",
    )
    parser.add_argument("--version", action="version", version=f"sapiens-ray {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    add_init(commands)

    run = commands.add_parser(
        "run", help="label the images of a job; after a stop, run it again",
        **with_examples(
            "sapiens-ray run job.yaml",
            "sapiens-ray run job.yaml --sample 100 --set output.uri=/data/trial",
            "sapiens-ray run job.yaml --retry-errors --json > events.jsonl",
        ),
    )  # fmt: skip
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
    add_json(run, "print what happens as lines of JSON on stdout, one object per event")
    add_quiet(run, "print nothing but errors and one line with the result; with --json only the last event")
    run.set_defaults(command=_run, answers_errors=True)

    check = commands.add_parser(
        "check", help="validate a job and show what it would do, without doing it",
        **with_examples("sapiens-ray check job.yaml", "sapiens-ray check job.yaml --load --json"),
    )  # fmt: skip
    _job_arguments(check)
    check.add_argument("--load", action="store_true", help="also load each model and run it once")
    add_json(check)
    add_quiet(check, "print nothing but errors")
    check.set_defaults(command=_check)

    add_preview(commands)
    add_status(commands)
    add_report(commands)
    add_query(commands)
    add_export(commands, is_given="export" in arguments[:1])
    add_evaluate(commands)
    add_compare(commands)

    from sapiens_ray.cli.checkpoints import add_commands

    add_commands(commands)

    schema = commands.add_parser(
        "schema", help="print the JSON schema of the job file, for editors",
        **with_examples("sapiens-ray schema > job.schema.json"),
    )  # fmt: skip
    schema.set_defaults(command=_schema)
    add_completion(commands, lambda: _parser(["export"]))
    return parser


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="the YAML job file")
    overrides_argument(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--limit", type=at_least_one, metavar="N",
        help="only the first N images, into an output of their own, unless --set output.uri=… names one",
    )  # fmt: skip
    which.add_argument(
        "--sample", type=at_least_one, metavar="N", help="only N images drawn at random, in the same way"
    )
    parser.add_argument("--seed", type=int, help="of --sample; default: 0")
    parser.add_argument("--address", help="Ray cluster to use; default: $RAY_ADDRESS, else a local one")


def _load_job(arguments: argparse.Namespace) -> tuple[Job, Subset | None]:
    """The job on the command line, and its subset in a trial run (--limit, --sample), which has an output of its own
    unless one is named."""
    from sapiens_ray.job.config import Job
    from sapiens_ray.planning.subset import make_subset

    job = Job.load(arguments.job, arguments.overrides)
    subset = make_subset(arguments.limit, arguments.sample, arguments.seed)
    if subset is None or any(override.partition("=")[0] == "output.uri" for override in arguments.overrides):
        return job, subset
    output = job.output.model_copy(update={"uri": job.output.uri.rstrip("/") + subset.suffix})
    return job.model_copy(update={"output": output}), subset


def _run(arguments: argparse.Namespace) -> int:
    from sapiens_ray.cli.events import RunEvents

    events = RunEvents(last_only=arguments.quiet) if arguments.json else None
    try:
        return _run_job(arguments, events)
    except SapiensRayError as error:
        code = _failed(error, as_json=False)
        if events:
            events.ended("failed", code, error)
        return code
    except Exception as error:
        if events:
            events.ended("failed", 1, error)
        raise


def _run_job(arguments: argparse.Namespace, events: RunEvents | None) -> int:
    from sapiens_ray.cli.stopping import leaving_on_signals

    def before_leaving(exit_code: int) -> None:
        if events:
            events.ended("stopped", exit_code)

    job, _ = _load_job(arguments)
    if events:
        events.about(job)
    with leaving_on_signals(before_leaving):  # also while libraries are imported, which expect no exceptions then
        return _label(job, arguments, events)


@dataclass
class _Watchers:
    """Whoever is told what a run does: the progress line, and the events for a script. last: what was told last."""

    view: ProgressView | None
    events: RunEvents | None
    last: Summary | None = None

    def progress(self, summary: Summary) -> None:
        self.last = summary
        for watcher in (self.view, self.events):
            if watcher:
                watcher(summary)

    def start(self, prepared: PreparedJob, resources: ResourcePlan | None, cluster: Cluster | None) -> None:
        from sapiens_ray.cli.plan import describe_plan

        if self.events:
            self.events.started(describe_plan(prepared, resources, cluster))

    def wait(self, line: str) -> None:
        if self.view:
            self.view.tell(line)
        if self.events:
            self.events.note(line)

    def stopped(self, exit_code: int) -> None:
        if self.last:
            line = f"Stopped. {self.last.line()}. Run the same command again to continue."
            print(line, file=sys.stderr, flush=True)
        if self.events:
            self.events.ended("stopped", exit_code)


def _label(job: Job, arguments: argparse.Namespace, events: RunEvents | None) -> int:
    """Run the job, show its progress and its result. Returns the exit code."""
    from sapiens_ray.cli.progress import ProgressView
    from sapiens_ray.cli.stopping import Stopped, StopSignals, end_process
    from sapiens_ray.execution.pipeline import run

    if arguments.restart and not arguments.yes:
        _ask_before_deleting(job)
    stop = StopSignals()
    watchers = _Watchers(None if arguments.quiet else ProgressView(), events)
    with stop.ending():  # once the run is over, a signal only ends the process
        try:
            with stop.installed(), watchers.view or contextlib.nullcontext(), events or contextlib.nullcontext():
                summary = run(
                    job,
                    address=arguments.address,
                    redo_changed=arguments.redo_changed,
                    retry_errors=arguments.retry_errors,
                    restart=arguments.restart,
                    limit=arguments.limit,
                    sample=arguments.sample,
                    seed=arguments.seed,
                    on_progress=watchers.progress,
                    on_ray_ready=stop.install,  # after ray.init(), which installs its own handlers
                    on_wait=watchers.wait,
                    on_start=watchers.start,
                )
        except (Stopped, SystemExit) as stopped:
            if isinstance(stopped, SystemExit):  # from Ray's own handler, between ray.init() and ours
                stopped = Stopped(signal.SIGTERM)
            watchers.stopped(stopped.exit_code)
            end_process(stopped.exit_code)
        except SapiensRayError as error:
            if watchers.last and not isinstance(error, ConfigError):  # else nothing was done
                _print_result(job, watchers.last, arguments)
            raise
        _print_result(job, summary, arguments)
        if events:
            events.ended("finished", 0)
        return 0


def _print_result(job: Job, summary: Summary, arguments: argparse.Namespace) -> None:
    """Print the result for people: on stderr if stdout is for a script."""
    from sapiens_ray.cli.result import print_result, result_line
    from sapiens_ray.execution.preflight import open_output
    from sapiens_ray.output.layout import has_pictures

    if not arguments.quiet:
        print_result(summary, has_pictures(open_output(job)), sys.stderr if arguments.json else sys.stdout)
    elif not arguments.json:
        print(result_line(summary))


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
    print(f"{what}. Continue? [y/N] ", end="", file=sys.stderr, flush=True)  # stdout may be for a script
    try:
        answer = input()
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise OutputError(f"nothing was deleted; without --restart the run continues with what is in {output.uri}")


def _check(arguments: argparse.Namespace) -> int:
    job, subset = _load_job(arguments)  # before the imports below: a wrong file is refused at once
    from sapiens_ray.cli.plan import checked_plan, print_plan

    plan = checked_plan(job, arguments.address, arguments.load, subset)
    if arguments.json:
        print_json(plan)
    elif not arguments.quiet:
        print_plan(plan)
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from sapiens_ray.job.config import Job

    print(json.dumps(Job.model_json_schema(), indent=2))
    return 0
