"""What a run would do: a dict that `check` prints as a table or as JSON, and `run --json` as its first event."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, fields

from sapiens_ray.cli.console import size
from sapiens_ray.cli.tables import Facts
from sapiens_ray.engine.models import PreparedModel, TaskModel
from sapiens_ray.engine.trial import try_model
from sapiens_ray.execution.cluster import Cluster, connected_cluster, start_ray, this_machine
from sapiens_ray.execution.placement import ResourcePlan, plan_resources
from sapiens_ray.execution.preflight import PreparedJob, open_output, prepare_job
from sapiens_ray.job.config import Job
from sapiens_ray.output.lock import try_to_write
from sapiens_ray.output.summary import counted
from sapiens_ray.planning.left_out import LeftOut
from sapiens_ray.planning.subset import Subset
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks.network import SAPIENS2
from sapiens_ray.tasks.sections import Settings

# Order of magnitude, measured on a photo of 12 megapixels: pictures at max_side 1280 take 230 to 440 kB.
PICTURE_BYTES = 350_000


def checked_plan(job: Job, address: str | None, load: bool, subset: Subset | None) -> Settings:
    """What `run` would do. Raises the errors that `run` would raise before it starts.

    load: also load each model and run it once.
    """
    try_to_write(open_output(job))
    prepared = prepare_job(job, subset=subset, download=load)
    prepared.growth.discard()
    cluster = _cluster(address)
    resources = plan_resources(job, prepared.models, cluster)
    plan = describe_plan(prepared, resources, cluster)
    if load:
        for model, about in zip(prepared.models, plan["models"], strict=True):
            about["trial"] = try_model(model)
    return plan


def print_plan(plan: Settings) -> None:
    """Print what `run` would do, for people."""
    _plan_table(plan).print()


def describe_plan(prepared: PreparedJob, resources: ResourcePlan | None, cluster: Cluster | None) -> Settings:
    """What a run does, as JSON values: `docs/cli.md` documents the keys.

    resources, cluster: None if there is nothing to label.
    """
    job, shards = prepared.job, prepared.plan.shards
    pending = bool(prepared.pending) or not prepared.growth.ended
    pictures = PICTURE_BYTES * sum(options.draws for options in job.tasks) * prepared.visualize.share
    return {
        "name": job.name,
        "pending": pending,
        "input": [redact_uri(uri) for uri in job.input.uri],
        "images": prepared.expected if prepared.growth.ended else None,
        "subset": str(prepared.subset or ""),
        **asdict(prepared.growth.left_out),
        "notes": [*prepared.notes, *(resources.notes if resources else ())],
        "already_done": prepared.already_done,
        "shards": len(shards),
        "shards_done": sum(done.complete for done in prepared.done.values()),
        "formats": sorted({shard.format for shard in shards}),
        "models": [_about(model, resources) for model in prepared.models],
        "needs": _needs(resources) if resources else None,
        "cluster": {"where": cluster.where, "nodes": len(cluster.nodes), "gpus": cluster.gpus, "cpus": cluster.cpus}
        if cluster
        else None,
        "output": redact_uri(prepared.output.uri),
        "bytes_per_image": {
            "labels": round(sum(options.stored_bytes(2_000_000) for options in job.tasks)),
            "pictures": round(pictures),
        },
        "visualize_fraction": prepared.visualize.share,
    }


def _about(model: PreparedModel, resources: ResourcePlan | None) -> Settings:
    """A task or a detector, its checkpoint and its actors."""
    pool = resources.pool_of(model) if resources else None
    about: Settings
    if isinstance(model, TaskModel):
        options = model.options
        about = {
            "kind": "task", "column": model.column, "task": options.task, "mode": options.mode,
            "recipe": options.recipe.name, "rope": options.rope, "matmul": options.matmul,
            "batch_size": options.batch_size, "compile": options.compile, "description": options.description,
        }  # fmt: skip
    else:
        text = f"{model.options.model}, label {model.options.label}, score at least {model.options.score:g}"
        about = {
            "kind": "detector", "column": model.column, "task": None, "mode": None, "recipe": None, "rope": None,
            "matmul": None, "batch_size": None, "compile": None, "description": text,
        }  # fmt: skip
    return {
        **about,
        "checkpoint": redact_uri(model.checkpoint.uri),
        "bytes": model.checkpoint.size,
        "sha256": model.checkpoint.sha256 or None,
        "pool": pool.name if pool else None,
        "actors": pool.actors if pool else None,
        "most_actors": pool.most if pool else None,
        "gpus_per_actor": pool.num_gpus if pool else None,
        "cpus_per_actor": pool.num_cpus if pool else None,
        "trial": None,
    }


def _needs(resources: ResourcePlan) -> Settings:
    """The least resources with which all actors and one other task run."""
    cpus = sum(pool.actors * pool.num_cpus for pool in resources.pools) + resources.work_cpus
    gpus = sum(pool.actors * pool.num_gpus for pool in resources.pools)
    return {"gpus": round(gpus, 3), "cpus": round(cpus, 3)}


def _cluster(address: str | None) -> Cluster:
    if address or os.environ.get("RAY_ADDRESS"):
        start_ray(address)
        return connected_cluster()
    return this_machine()


def _plan_table(plan: Settings) -> Facts:
    table = Facts(f"{plan['name']}: {_ready(plan)}")
    for number, uri in enumerate(plan["input"]):
        table.add_whole("" if number else "input", uri)
    count = "counted when read" if plan["images"] is None else str(plan["images"])
    which = f"; {plan['subset']}" if plan["subset"] else ""
    table.add("images", f"{count} in {counted(plan['shards'], 'shard')} ({', '.join(plan['formats'])}){which}")
    if left_out := LeftOut(**{field.name: plan[field.name] for field in fields(LeftOut)}):
        table.add("", str(left_out))
    table.add(
        "already done", f"{counted(plan['already_done'], 'image')}, {counted(plan['shards_done'], 'whole shard')}"
    )
    for note in plan["notes"]:
        table.add("note", note)
    pools: dict[str, list[Settings]] = {}
    for model in plan["models"]:
        pools.setdefault(model["pool"], []).append(model)
    shared = {name: models for name, models in pools.items() if len(models) > 1}
    for model in plan["models"]:
        table.add(model["kind"], _model_text(model))
        table.add_whole("  checkpoint", model["checkpoint"])
        about = "about " if model["sha256"] is None and model["bytes"] else ""
        table.add("  size", f"{about}{size(model['bytes']) if model['bytes'] else 'unknown'}")
        if model["sha256"] is None:
            table.add("", "not on this machine; downloaded when the job runs, or by check --load")
        else:
            table.add_whole("  sha256", model["sha256"])
        if model["pool"] not in shared:
            table.add("  actors", _actors_text(model))
        if model["trial"]:
            table.add("  trial", model["trial"])
    for models in shared.values():
        columns = ", ".join(dict.fromkeys(model["column"] for model in models))
        table.add("actors", f"{_actors_text(models[0])}; each holds {columns}")
    if missing := {model["checkpoint"]: model["bytes"] for model in plan["models"] if model["sha256"] is None}:
        known = sum(missing.values())
        table.add(
            "downloads",
            f"{counted(len(missing), 'checkpoint')}, {f'about {size(known)}' if known else 'of unknown size'}",
        )
    if not any(model["trial"] for model in plan["models"]):
        table.add("models", "not tried; check --load runs each once")
    table.add("needs", _needs_text(plan["needs"], plan["cluster"]))
    table.add_whole("output", plan["output"])
    if plan["images"] is None or plan["images"] > plan["already_done"]:
        table.add("", _output_estimate(plan))
    return table


def _ready(plan: Settings) -> str:
    if not plan["pending"]:
        return "nothing left to do"
    return "ready to run" if any(model["trial"] for model in plan["models"]) else "ready to run, models not tried"


def _actors_text(model: Settings) -> str:
    gpu = f"{_rounded(model['gpus_per_actor'])} GPU and " if model["gpus_per_actor"] else ""
    more = ""
    if model["most_actors"] != model["actors"]:
        limit = f" up to {model['most_actors']}" if model["most_actors"] else ""
        more = f",{limit or ' more'} if the cluster grows"
    return f"{model['actors']} with {gpu}{_rounded(model['cpus_per_actor'])} CPU each{more}"


def _model_text(model: Settings) -> str:
    if model["kind"] == "detector":
        return str(model["description"])
    chosen = f", Sapiens2 with rope {model['rope']}" if model["recipe"] == SAPIENS2 else ""
    chosen += f", matmul {model['matmul']}" if model["matmul"] != "strict" else ""
    chosen += f", batch size {model['batch_size']}" if model["batch_size"] else ""
    chosen += f", compile {model['compile']}" if model["compile"] != "none" else ""
    description = f", {model['description']}" if model["description"] else ""
    return f"{model['column']}: {model['task']}, mode {model['mode']}{chosen}{description}"


def _needs_text(needs: Settings, cluster: Settings) -> str:
    cpus = math.ceil(10 * needs["cpus"]) / 10
    gpus = f"{_counted(needs['gpus'], 'GPU')} and " if needs["gpus"] else ""
    has = f"{_counted(cluster['gpus'], 'GPU')} and " if cluster["gpus"] else ""
    return f"{gpus}at least {_counted(cpus, 'CPU')}; {cluster['where']} has {has}{_counted(cluster['cpus'], 'CPU')}"


def _counted(count: float, noun: str) -> str:
    """A number that need not be whole, with its noun."""
    return f"{_rounded(count)} {noun}{'' if count == 1 else 's'}"


def _rounded(count: float) -> str:
    """A number of CPUs or GPUs for people: 0.33, 1.5, 16."""
    return f"{count:.2g}" if count < 10 else f"{count:.0f}"


def _output_estimate(plan: Settings) -> str:
    labels, pictures = plan["bytes_per_image"]["labels"], plan["bytes_per_image"]["pictures"]
    some = "" if plan["visualize_fraction"] == 1 else f", of {100 * plan['visualize_fraction']:.3g} % of the images,"
    if plan["images"] is None:
        also = f" and {size(pictures)} of pictures{some}" if pictures else ""
        return f"about {size(labels)} of labels{also} per image"
    left = max(0, plan["images"] - plan["already_done"])
    also = f" and {size(left * pictures)} of pictures{some}" if pictures else ""
    return f"about {size(left * labels)} of labels{also} still to write"
