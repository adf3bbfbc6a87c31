"""What pip installs: an editable clone wins over the folder beside it, and a wheel is complete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S, ROOT

OFFLINE = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """What the package is built from, in a folder with the name that `git clone` gives it."""
    folder = tmp_path_factory.mktemp("parent") / "sapiens_ray"
    shutil.copytree(ROOT / "sapiens_ray", folder / "sapiens_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    """The environment without the path of this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command: object, cwd: Path, env: dict[str, str]) -> str:
    words = list(map(str, command))
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_an_editable_clone_wins_over_the_folder_beside_it(clone, env, tmp_path):
    """In the parent of a clone, `sapiens_ray` is also the clone itself, a folder without __init__.py."""
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path, env=env)
    python = venv / "bin" / "python"
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path, env=env).strip()
    # Everything else comes from this environment. Its .pth files do not count there, so it has no editable sapiens_ray.
    (Path(own) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", *OFFLINE, "--ignore-installed", "--editable", clone, cwd=tmp_path, env=env)

    output = ROOT / "tests" / "data" / "begun_by_3a36c3a" / "output"
    line = f"import sapiens_ray as sr; print(sr.read_labels({str(output)!r}).iloc[0])"  # as `run` prints it
    assert "0.jpg" in run(python, "-c", line, cwd=clone.parent, env=env)
    for folder in (clone.parent, clone, tmp_path):
        printed = run(python, "-c", "import sapiens_ray as sr; print(sr.__file__, dir(sr))", cwd=folder, env=env)
        assert printed.startswith(f"{clone}/sapiens_ray/__init__.py ['Job', 'Labeler',"), folder
    script = run(venv / "bin" / "sapiens-ray", "--version", cwd=clone.parent, env=env)
    assert script.startswith("sapiens-ray ")
    assert "usage: sapiens-ray" in run(python, "-m", "sapiens_ray", "--help", cwd=clone.parent, env=env)


def test_a_wheel_holds_the_package_and_nothing_else(clone, env, tmp_path):
    run(sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", tmp_path, clone, cwd=tmp_path, env=env)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    package = {name for name in names if ".dist-info/" not in name}
    files = {path.relative_to(clone).as_posix() for path in (clone / "sapiens_ray").rglob("*") if path.is_file()}
    assert package == files
    assert {"sapiens_ray/py.typed", "sapiens_ray/labels/keypoints_308.json"} <= package
    assert "sapiens_ray/samples/crops/astronaut_portrait_exif.jpg" in package
    (entry_points,) = [name for name in names if name.endswith("/entry_points.txt")]
    assert b"sapiens-ray = sapiens_ray.cli:main" in zipfile.ZipFile(wheel).read(entry_points)
