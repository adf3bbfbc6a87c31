"""A test run of a model: `sapiens-ray check --load`."""

from __future__ import annotations

import time

import numpy as np

from sapiens_ray.engine.models import DetectorModel, PreparedModel, TaskModel
from sapiens_ray.errors import CheckpointError, last_line


def try_model(model: PreparedModel) -> str:
    """Load a model and run it once on a black image. Returns a line of text about it. Raises CheckpointError."""
    return _try_task(model) if isinstance(model, TaskModel) else _try_detector(model)


def _try_task(model: TaskModel) -> str:
    from sapiens_ray.engine.runner import Runner

    started = time.perf_counter()
    runner = Runner(model.checkpoint.local_file(), "auto", 1, mode=model.options.mode, rope=model.options.rope)
    loaded = time.perf_counter() - started
    height, width = model.options.network_size
    started = time.perf_counter()
    try:
        output = model.task.check_output(*runner.warm_up(height, width))
    except CheckpointError as error:
        raise CheckpointError(f"{error} It is {model.checkpoint.uri}") from None
    except RuntimeError as error:
        raise CheckpointError(
            f"{model.checkpoint.uri} cannot run a {height} x {width} image: {last_line(error)}"
        ) from None
    shape = " x ".join(map(str, output.shape))
    spent = time.perf_counter() - started
    return f"loads in {loaded:.1f} s on {runner.device.type}, one image gives {shape} in {spent:.2f} s"


def _try_detector(model: DetectorModel) -> str:
    from sapiens_ray.models.hub_detectors import load_detector

    started = time.perf_counter()
    detector = load_detector(model.options, model.checkpoint.local_file(), "auto")
    loaded = time.perf_counter() - started
    started = time.perf_counter()
    try:
        found = detector(np.zeros((480, 640, 3), np.uint8))
    except Exception as error:
        raise CheckpointError(f"{model.checkpoint.uri} cannot run a 480 x 640 x 3 photo: {last_line(error)}") from None
    spent = time.perf_counter() - started
    return f"loads in {loaded:.1f} s, finds {len(found)} persons in a black photo in {spent:.2f} s"
