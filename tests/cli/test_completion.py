"""`sapiens-ray completion`: what the shells offer, by the script that each of them gets."""

from __future__ import annotations

import contextlib
import shutil
import subprocess

import pytest

from sapiens_ray.cli.completion import SHELLS
from sapiens_ray.export import EXPORTS
from sapiens_ray.models.catalogue import CATALOGUE

# Calls the function that the script registers for `sapiens-ray`, as bash does when the user presses the tab key.
PRESS_TAB = """
source "$1"; shift
COMP_WORDS=(sapiens-ray "$@"); COMP_CWORD=$#
registered=$(complete -p sapiens-ray); function=${registered#*-F }; ${function%% *}
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The script for bash, as the command prints it."""
    from sapiens_ray.cli import main

    folder = tmp_path_factory.mktemp("completion")

    def write(shell: str):
        path = folder / shell
        with path.open("w") as file, contextlib.redirect_stdout(file):
            assert main(["completion", shell]) == 0
        return path

    return {shell: write(shell) for shell in SHELLS}


def offered(script, *words: str, folder=None) -> set[str]:
    """What bash offers for the last of these words."""
    command = ["bash", "--norc", "-c", PRESS_TAB, "bash", str(script["bash"]), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    assert not done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["st"], {"status"}),
        (["checkpoints", ""], {"list", "pull", "inspect"}),
        (["checkpoints", "pull", "pose308-"], {name for name in CATALOGUE if name.startswith("pose308-")}),
        (["checkpoints", "pull", "seg-1b", "normal-2"], {"normal-2b"}),
        (["export", "runs/demo", "--format", ""], set(EXPORTS)),
        (["evaluate", "runs/demo", "--task", "dep"], {"depth"}),
        (["init", "photos", "--tasks", "pose17-1"], {"pose17-1b"}),
        (["status", "runs/demo", "--wat"], {"--watch"}),
        (["completion", ""], set(SHELLS)),
    ],
)
def test_bash_offers(script, words, expected):
    assert offered(script, *words) == expected


def test_bash_offers_job_files_and_folders(script, tmp_path):
    for name in ("job.yaml", "photo.jpg", "labels/plan.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert offered(script, "run", "", folder=tmp_path) == {"job.yaml", "labels"}
    assert offered(script, "status", "", folder=tmp_path) == {"labels"}


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_knows_all_names(script, shell):
    text = script[shell].read_text()
    for name in (*CATALOGUE, *EXPORTS, "status", "inspect", "--retry-errors", "--watch"):
        assert name.removeprefix("--") in text, name


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_reads_its_script(script, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    done = subprocess.run([shell, "-n", str(script[shell])], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_shell_is_refused_by_name(command):
    assert "invalid choice: 'fihs'; did you mean 'fish'?" in command("completion", "fihs").err
