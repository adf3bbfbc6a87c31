"""Every command of docs/first-hour.md runs for a new user, in its order, and prints what the page shows."""

from __future__ import annotations

import re
import socket
import sys

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "first-hour.md").read_text()
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```\n(?:\n```text\n(.*?)```)?", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def checkout(demo):
    """The checkout after the demo, with an environment in it."""
    folder, _ = demo
    (folder / ".venv").symlink_to(sys.prefix)
    yield folder
    (folder / ".venv").unlink()


def comparable(text, folder):
    """One line, without what differs from run to run: numbers, times, plurals, the place, the machine."""
    text = text.replace(str(folder), "/home/ada/sapiens_ray").replace(f"on {socket.gethostname()}", "on vm")
    text = re.sub(r"[0-9a-f]{64}", "sha256", text)
    text = re.sub(r"\d+(?:[.:]\d+)*(?: s\b)?", "#", text)
    return " ".join(re.sub(r"(error|row|shard|CPU)s\b", r"\1", text).split())


@pytest.mark.nightly
def test_the_first_hour(user, demo, checkout):
    assert len(BLOCKS) == 10 and BLOCKS[0][0] == "make demo\n"
    printed = [demo[1].text]
    for code, _ in BLOCKS[1:]:
        if code in README and (checkout / "runs" / "on-cluster").exists():  # the tests of the README ran it
            printed.append("")
            continue
        done = user.run("bash", "-c", f"exec 2>&1\n{code}", cwd=checkout)
        assert done.code == 0 and "Traceback" not in done.out, f"{code}\n{done.out}"
        printed.append(done.out)
    for (code, shown), out in zip(BLOCKS, printed, strict=True):
        for line in shown.splitlines():
            wanted = comparable(line.partition("…")[0], checkout)
            assert wanted in comparable(out, checkout), f"{line}\nis not in what\n{code}printed:\n{out}"


def test_the_page_fits_80_columns_except_for_lines_to_paste():
    for _, shown in BLOCKS:
        for line in shown.splitlines():
            assert len(line) <= 80 or line.startswith(("python -c", "sapiens-ray: ", "/", "  /")) or "  /home/" in line
