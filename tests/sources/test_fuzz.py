"""Half a minute of fuzzing, as two processes of a quarter; `python -m tests.fuzz --minutes 60` runs longer."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import PATIENCE_S, ROOT


def test_damaged_bytes_for_half_a_minute():
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz", "--minutes", "0.25", "--seed", seed],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for seed in ("0", "1000")
    ]  # fmt: skip
    for run in runs:
        output, errors = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 0, (output + errors)[-4000:]
        assert int(output.split()[0]) > 75
