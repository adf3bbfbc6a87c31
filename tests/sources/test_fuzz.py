"""The fuzz target for a minute, half of it on either core; `python -m tests.fuzz --minutes 60` for longer."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import PATIENCE_S, ROOT


def test_damaged_bytes_for_a_minute():
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz", "--minutes", "0.5", "--seed", seed],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for seed in ("0", "1000")
    ]  # fmt: skip
    for run in runs:
        said, errors = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 0, (said + errors)[-4000:]
        assert int(said.split()[0]) > 150
