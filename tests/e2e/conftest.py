"""A new user of this machine, and the checkout in which they called `make demo`."""

from __future__ import annotations

import shutil
import sys

import pytest

from tests.conftest import ROOT
from tests.newcomer import newcomer


@pytest.fixture(scope="session")
def user():
    with newcomer() as user:
        yield user


@pytest.fixture(scope="session")
def demo(user, tmp_path_factory):
    """A checkout in which a new user called `make demo`, and its output. It uses the venv of this test run."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Makefile", "configs", "jobs", "sapiens_ray", "pyproject.toml", ".rayignore"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    done = user.run("make", "demo", f"VENV={sys.prefix}", f"--old-file={sys.prefix}/installed", cwd=folder)
    assert done.code == 0, done.text
    return folder, done
