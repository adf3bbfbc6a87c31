"""`python -m sapiens_ray.demo`: its help, which does not wait for torch."""

from __future__ import annotations

import subprocess
import sys


def test_help_and_a_missing_folder():
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = (
            "import runpy, sys; sys.argv = ['demo', *sys.argv[1:]]\n"
            "try: runpy.run_module('sapiens_ray.demo', run_name='__main__')\n"
            "finally: print('torch' in sys.modules)"
        )
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)

    done = run("--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m sapiens_ray.demo [-h] FOLDER\n")
    assert "random weights" in done.stdout and done.stdout.endswith("False\n"), "torch is not imported"
    done = run()
    assert done.returncode == 2 and done.stderr.endswith("error: the following arguments are required: FOLDER\n")
