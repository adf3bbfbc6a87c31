"""The package in CONTRIBUTING.md adds an entry to every registry, without a change to this repository."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from tests.conftest import PATIENCE_S, ROOT, photo


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package from the page, installed into a separate folder."""
    folder = tmp_path_factory.mktemp("package")
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in files] == [
        "pyproject.toml", "colour_pack/task.py", "colour_pack/source.py", "colour_pack/export.py",
        "colour_pack/family.py",
    ]  # fmt: skip
    (folder / "colour_pack").mkdir()
    for name, code in files:
        (folder / name).write_text(code)
    site = folder / "site"
    install = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index",
        "--no-build-isolation", "--target", str(site), str(folder),
    ]  # fmt: skip
    done = subprocess.run(install, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """Three photos in a zip, one of them broken; seg and the mean colour by models of the package's family."""
    folder = tmp_path_factory.mktemp("job")
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for number in (0, 2):
            archive.writestr(f"{number}.png", cv2.imencode(".png", photo(96, 128, number))[1].tobytes())
        archive.writestr("1.png", b"broken")
        archive.writestr("notes.txt", b"not an image")
    bright = torch.zeros(28, 3, 1, 1)
    bright[21] = 1 / 3  # class 21 where the photo is brighter than 0.5
    bias = torch.full((28,), -9.0)
    bias[0], bias[21] = 0.5, 0.0
    torch.save({"mix.weight": bright, "mix.bias": bias}, folder / "seg.pth")
    torch.save({"mix.weight": torch.eye(3)[:, :, None, None] * 255, "mix.bias": torch.zeros(3)}, folder / "colour.pth")
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({
        "input": {"uri": "photos.zip"},
        "output": {"uri": "labels"},
        "tasks": [
            {"task": "mean_colour", "checkpoint": "colour.pth"},  # first in the list, but runs second
            {"task": "seg", "checkpoint": "seg.pth"},
        ],
    }))  # fmt: skip
    return path


def test_a_package_adds_an_entry_to_every_registry(package, job, sapiens_ray):
    """All steps of a user: check, run on Ray, status, read_labels, export, schema."""
    env = {"PYTHONPATH": f"{package}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "RAY_ADDRESS": ""}
    checked = sapiens_ray("check", job, env=env)
    assert checked.code == 0, checked.text
    assert "counted when read in 1 shard (zip)" in checked.out
    assert "mean_colour: mean_colour, mode float32" in checked.out

    done = sapiens_ray("run", job, env=env)
    assert done.code == 0, done.text
    output = job.parent / "labels"
    code = f"import sapiens_ray as sr; sr.read_labels({str(output)!r}, decode=True).to_pickle({str(output)!r} + '.pkl')"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, check=True, timeout=PATIENCE_S)
    import pandas as pd

    frame = pd.read_pickle(f"{output}.pkl")
    assert frame["image_id"].tolist() == [f"photos.zip/{number}.png" for number in range(3)]
    assert frame["error_kind"].fillna("").tolist() == ["", "not_an_image", ""]
    for row, number in ((0, 0), (2, 2)):
        small = cv2.resize(photo(96, 128, number), (768, 1024), interpolation=cv2.INTER_LINEAR)
        cells = small.reshape(64, 16, 48, 16, 3).mean((1, 3))[:, :, ::-1]  # RGB
        inside = cv2.resize(frame["seg"][row], (48, 64), interpolation=cv2.INTER_NEAREST) > 0
        assert 0.05 < inside.mean() < 0.95
        np.testing.assert_allclose(frame["mean_colour"][row], cells[inside].mean(0), atol=1e-2)

    exported = sapiens_ray("export", output, "--format", "csv", "--to", job.parent / "csv", "--digits", "1", env=env)
    assert exported.code == 0 and "2 images exported" in exported.out, exported.text
    rows = list(csv.reader((job.parent / "csv" / "colours.csv").open()))
    assert [row[0] for row in rows] == ["photos.zip/0.png", "photos.zip/2.png"]
    assert [float(value) for value in rows[0][1:]] == pytest.approx(frame["mean_colour"][0], abs=0.051)
    lite = sapiens_ray("export", output, "--format", "lite", "--to", job.parent / "lite", env=env)
    assert "mean_colour left out: Sapiens-Lite has no mean_colour" in lite.err and "2 images exported" in lite.out

    schema = sapiens_ray("schema", env=env)
    assert '"const": "mean_colour"' in schema.out and '"zip"' in schema.out
    status = sapiens_ray("status", output)  # status works without the package: it only reads files
    assert "3 of 3 (100.0 %): 2 ok, 1 error" in status.out


def test_without_the_package_the_message_names_the_unknown_task(job, sapiens_ray):
    refused = sapiens_ray("check", job)
    assert refused.code == 2 and "tasks[0].task: 'mean_colour' is not one of seg, depth" in refused.err
