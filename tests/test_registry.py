"""Registries: what this package brings, and what installed packages add by entry points."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sapiens_ray.errors import ConfigError
from sapiens_ray.registry import Registry
from sapiens_ray.tasks import TaskKind

GROUP = "sapiens_ray.test_entries"
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package with entry points where Python finds it."""

    def install(package: str, group: str = GROUP, **points: str) -> None:
        folder = tmp_path / package
        about = folder / f"{package}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in points.items())
        (about / "entry_points.txt").write_text(f"[{group}]\n{lines}")
        monkeypatch.syspath_prepend(str(folder))

    return install


def registry() -> Registry[str]:
    return Registry(GROUP, str, {"zebra": "string:digits", "ant": "string:hexdigits"})


def test_built_in_entries_stand_in_the_order_of_declaration():
    entries = registry()
    assert list(entries) == ["zebra", "ant"] and len(entries) == 2
    assert entries["zebra"] == "0123456789"
    assert entries.get("bee") is None and "bee" not in entries
    with pytest.raises(KeyError):
        entries["bee"]


def test_entries_of_packages_follow_sorted_by_name(install):
    install("yard", wolf="string:ascii_lowercase", bear="string:ascii_uppercase")
    install("barn", cow="string:octdigits")
    entries = registry()
    assert list(entries) == ["zebra", "ant", "bear", "cow", "wolf"]
    assert entries["cow"] == "01234567" and entries["wolf"].startswith("abc")


def test_an_entry_is_imported_when_it_is_asked_for(install, tmp_path):
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "late_module.py").write_text("ENTRY = 'here'")
    install_into = tmp_path / "late" / "late-1.0.dist-info"
    install_into.mkdir()
    (install_into / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
    (install_into / "entry_points.txt").write_text(f"[{GROUP}]\nlate = late_module:ENTRY\n")
    sys.path.insert(0, str(tmp_path / "late"))
    try:
        entries = registry()
        assert list(entries)[-1] == "late" and "late_module" not in sys.modules
        assert entries["late"] == "here" and "late_module" in sys.modules
    finally:
        sys.path.remove(str(tmp_path / "late"))
        sys.modules.pop("late_module", None)


def test_a_name_that_is_taken_is_refused_with_the_package(install):
    install("greedy", ant="string:digits")
    with pytest.raises(ConfigError, match=rf"^package greedy adds 'ant' to {GROUP}, which sapiens_ray has already$"):
        list(registry())


def test_two_packages_with_one_name_are_refused(install):
    install("first", bee="string:digits")
    install("second", bee="string:digits")
    with pytest.raises(ConfigError, match=r"^package \w+ adds 'bee' .*, which package (first|second) has already$"):
        len(registry())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module_anywhere:X", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("string:no_such_name", "AttributeError: module 'string' has no attribute 'no_such_name'"),
    ],
)
def test_an_entry_that_cannot_be_imported_is_refused_with_the_package(install, value, reason):
    install("broken", bee=value)
    entries = registry()
    assert entries["ant"], "others can be used"
    with pytest.raises(ConfigError) as caught:
        entries["bee"]
    assert (
        str(caught.value)
        == f"package broken adds 'bee' to {GROUP}, but {value} cannot be imported: {reason}; fix or uninstall it"
    )


def test_an_entry_with_another_name_than_its_own_is_refused(install):
    install("odd", "sapiens_ray.tasks", other="sapiens_ray.tasks.seg:TASK")
    tasks = Registry("sapiens_ray.tasks", TaskKind, {})
    with pytest.raises(ConfigError, match=r"^package odd: sapiens_ray\.tasks\.seg:TASK in .* is 'seg', not 'other'$"):
        tasks["other"]


def test_an_entry_of_the_wrong_kind_is_refused_with_the_package(install):
    install("odd", bee="string:Template")
    with pytest.raises(ConfigError) as caught:
        registry()["bee"]
    assert str(caught.value) == f"package odd: string:Template in {GROUP} is not a str"


def test_the_job_file_knows_the_tasks_of_packages(install, tmp_path):
    """In a process of its own, since the task options of a process are settled when it starts."""
    install("painter", "sapiens_ray.tasks", seg="string:digits")
    code = "import sapiens_ray.errors as e\ntry:\n import sapiens_ray.job.config\nexcept e.ConfigError as x: print(x)"
    path = [str(tmp_path / "painter"), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "package painter adds 'seg' to sapiens_ray.tasks, which sapiens_ray has already\n", (
        done.stderr
    )
