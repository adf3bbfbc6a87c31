"""The fuzz target for a minute; `python -m tests.fuzz --minutes 60` for longer."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT


def test_damaged_bytes_for_a_minute():
    command = [sys.executable, "-m", "tests.fuzz", "--minutes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert int(done.stdout.split()[0]) > 300
