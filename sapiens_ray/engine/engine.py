"""All models of a job in one process: units in, labelled units out, a device that does not wait.

    unit -> UnitRun: which image may enter which model     (the thread that calls, one per unit under way)
              -> Queues: a queue per model, shared by all units under way
                   -> DeviceLoop: make a batch | run it | reduce its outputs     (a thread each; two reduce on a CPU)
              <- results, encoded by threads
         <- the unit with the columns of all models

Ray's actors, `Labeler` and `preview` all call this. Nothing here knows Ray.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from sapiens_ray.engine.backlog import Backlog
from sapiens_ray.engine.device_loop import DeviceLoop
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.loaded import LoadedModel
from sapiens_ray.engine.models import PreparedModel, in_order
from sapiens_ray.engine.queues import Queues
from sapiens_ray.engine.unit_run import UnitRun
from sapiens_ray.errors import ClusterError, last_line
from sapiens_ray.models.device import out_of_memory
from sapiens_ray.units import Unit, add_use


class Engine:
    """Holds models, and labels units. Call it from several threads: their units share batches."""

    def __init__(
        self,
        models: Sequence[PreparedModel],
        host: ModelHost,
        on_device_error: Callable[[Exception], None] | None = None,
    ) -> None:
        """Load the models, and run each once. Raises CheckpointError, or ClusterError if they do not fit into memory.

        on_device_error: called with an error of the device itself, such as a lost GPU, in place of raising it.
        """
        self._models = _loaded(in_order(models), host)
        self._kept = host.kept_inputs
        self._queues = Queues(self._models)
        self._workers = ThreadPoolExecutor(host.workers, thread_name_prefix="finish")
        croppers = ThreadPoolExecutor(host.workers, thread_name_prefix="crop")
        self._backlog = Backlog()
        self._loop = DeviceLoop(self._models, self._queues, croppers, self._backlog, on_device_error)
        self._numbers = itertools.count()
        weakref.finalize(self, self._loop.close)

    @property
    def answered(self) -> int:
        """How many batches of photos gave results."""
        return self._loop.answered

    def __call__(self, unit: Unit) -> Unit:
        """The unit with the columns of all models, and without the inputs that nothing needs any more.

        Raises CheckpointError, or an error of the device; what is wrong with one image becomes the error of its row.
        """
        loop = self._loop
        run = UnitRun(
            next(self._numbers), unit, self._models, self._queues, self._workers, self._backlog, lambda: loop.batches
        )
        done = run.finish()
        inputs = {kind: array for kind, array in unit.inputs.items() if kind in self._kept}
        return replace(done, inputs=inputs, device=add_use(done.device, loop.take_times()))


def _loaded(models: Sequence[PreparedModel], host: ModelHost) -> list[LoadedModel]:
    """The models in memory. All are there before the first one chooses its batch size."""
    try:
        loaded = [model.load(host) for model in models]
        for one in loaded:
            one.warm_up()
        return loaded
    except Exception as error:
        if not out_of_memory(error):
            raise
        reason = last_line(error)
    sizes = ", ".join(f"{model.column} {(model.checkpoint.size or 0) / 1e9:.1f} GB" for model in models)
    together = "together; `placement: separate` gives each its own process" if len(models) > 1 else ""
    raise ClusterError(
        f"tasks: {sizes} do not fit into the memory of one device {together or '; choose a smaller model'}, and mode "
        f"bfloat16 needs half of it ({reason})"
    )
