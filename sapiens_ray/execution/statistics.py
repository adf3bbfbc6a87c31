"""Keeps the driver's memory flat: Ray Data stores statistics of every block of every operator until a job ends.

They are for `Dataset.stats()`, which nobody asks for. A million units would take gigabytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.data._internal.execution.execution_callback import ExecutionCallback

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor


class ForgetBlocks(ExecutionCallback):
    """Called by Ray Data at each step of its loop, in the thread that also writes these statistics."""

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Drop the statistics of blocks that have left their operator."""
        for operator in getattr(executor, "_topology", None) or ():
            blocks = getattr(operator, "_output_blocks_stats", None)
            if isinstance(blocks, list):
                blocks.clear()
