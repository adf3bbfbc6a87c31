"""The documentation as a site: it is built strictly, asks no other server for anything, and has no link that leads
nowhere. The pages have none on GitHub either."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import sapiens_ray
from sapiens_ray import Job
from tests.cli.test_documented import COMMANDS
from tests.conftest import PATIENCE_S, ROOT

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class Read(HTMLParser):
    """What a page links to, what it loads, which places in it have a name, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADED and given.get("rel") != "canonical":
            self.loaded.append(given.get(LOADED[tag], ""))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Read]:
    """All pages of the site, as `make docs` builds it."""
    for module in ("mkdocs", "material", "mkdocstrings", "mermaidx"):
        pytest.importorskip(module, reason="pip install 'sapiens-ray[docs]'")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        build, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    return {path: Read(path) for path in folder.rglob("*.html") if path.name != "404.html"}


def page(site: dict[Path, Read], name: str) -> Read:
    (found,) = [read for path, read in site.items() if path.name == name and path.parent.name != "decisions"]
    return found


def test_every_link_leads_somewhere(site):
    wrong = []
    for path, read in site.items():
        for link in read.links + read.loaded:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            file = (path.parent / target).resolve() if target else path
            if not file.is_file() or (anchor and file in site and anchor not in site[file].names):
                wrong.append((path.name, link))
    assert not wrong and sum(len(read.links) for read in site.values()) > 1000


def test_it_loads_nothing_from_elsewhere(site):
    elsewhere = [one for read in site.values() for one in read.loaded if re.match(r"([a-z]+:)?//", one)]
    assert elsewhere == []
    assert not any("mermaid" in name for read in site.values() for name in read.names)
    written = next(path for path in site if path.name == "architecture.html").read_text()
    assert written.count('<figure class="diagram"><svg') == (ROOT / "docs/architecture.md").read_text().count(
        "```mermaid"
    )
    assert "<pre><code>flowchart" not in written


def test_the_page_of_the_job_file_has_every_field(site):
    text = page(site, "job-file.html").text
    schema = Job.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    sections += [choice for section in sections for choice in section.get("anyOf", ())]
    for section in sections:
        for name, field in section.get("properties", {}).items():
            if name not in ("source", "task"):
                assert re.search(rf"\b{name}\b", text), name
                assert " ".join(field.get("description", "").split()).replace("`", "") in " ".join(text.split()), name


def test_the_other_made_pages_are_whole(site):
    assert all(f"usage: sapiens-ray {command} " in page(site, "help.html").text for command in COMMANDS)
    assert {name for name in sapiens_ray.__all__ if name != "__version__"} <= {
        name.removeprefix("sapiens_ray.") for name in page(site, "python.html").names
    }
    configs = page(site, "configs.html").text
    assert all(file.name in configs for file in (ROOT / "configs").glob("*.yaml"))


def test_every_link_leads_somewhere_on_github():
    pages = [path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if "building" not in path.parts]
    wrong = []
    for path in pages:
        prose = re.sub(r"^```.*?^```|`[^`\n]+`", "", path.read_text(), flags=re.M | re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", prose):
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            file = (path.parent / target).resolve() if target else path
            if not file.exists() or (anchor and anchor not in headings(file)):
                wrong.append((path.name, link))
    assert not wrong and len(pages) > 30


def headings(path: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page: lower case, without punctuation, hyphens for spaces."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    found = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}
