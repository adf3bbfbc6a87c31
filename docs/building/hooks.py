"""What the site has beside the pages in docs/: pages that are made when it is built, and diagrams as pictures.

MkDocs calls the functions named `on_…` (https://www.mkdocs.org/user-guide/configuration/#hooks).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from diagrams import drawn  # noqa: E402
from job_file import job_file_page  # noqa: E402

import sapiens_ray  # noqa: E402

# Files outside docs/ that are pages of the site.
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# Folders of which files stand on one page, each below its name: which files, and how the page begins.
SHOWN = {
    "configs": ("*.yaml", "# Example job files\n\nThe files of `configs/`, one for each task and one for all of them."),
    "jobs": ("*", "# Files for clusters\n\nThe files of `jobs/`, which [clusters](cluster.md) explains."),
}
LANGUAGES = {".yaml": "yaml", ".json": "json", ".py": "python", ".sh": "bash", "Dockerfile": "dockerfile"}
FENCED = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.M | re.S)
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files in docs/."""
    pages = {page: (ROOT / source).read_text() for source, page in OUTSIDE.items()}
    pages |= {f"{folder}.md": files_page(folder, *shown) for folder, shown in SHOWN.items()}
    pages |= {"job-file.md": job_file_page(), "help.md": help_page()}
    pages |= {"python.md": python_page()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "assets/site.css", content=(ROOT / "docs/building/site.css").read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw diagrams, and let links lead to pages of the site that lead to files outside docs/ on GitHub."""
    parts = FENCED.split(markdown)
    here = Path("." if page.file.src_uri in OUTSIDE.values() else "docs", page.file.src_uri).parent
    depth = len(Path(page.file.src_uri).parents) - 1
    for place, part in enumerate(parts):
        if part.startswith("```mermaid\n"):
            parts[place] = drawn(part, f"{page.file.src_uri}-{place}")
        elif place % 2 == 0:
            parts[place] = LINK.sub(lambda match: site_link(match[1], here, depth), part)
    return "".join(parts)


def site_link(link: str, here: Path, depth: int) -> str:
    """A link of a page in the folder `here` of the repository as it is on the site, `depth` folders below its root."""
    if re.match(r"[a-z]+:|#", link):
        return link
    target, hash_sign, anchor = link.partition("#")
    path = Path(os.path.normpath(here / target))
    up = "../" * depth
    if str(path) in OUTSIDE:
        return f"{up}{OUTSIDE[str(path)]}{hash_sign}{anchor}"
    if path.parts[0] in SHOWN:
        return f"{up}{path.parts[0]}.md" + (f"#{path.name.replace('.', '').lower()}" if len(path.parts) > 1 else "")
    if path.parts[0] == "docs" and here == Path("."):
        inside = path.relative_to("docs") / ("README.md" if (ROOT / path).is_dir() else "")
        return f"{inside}{hash_sign}{anchor}"
    return link


def files_page(folder: str, pattern: str, intro: str) -> str:
    """The files of a folder, each below its name. intro: the beginning of the page."""
    lines = [intro]
    for file in sorted((ROOT / folder).glob(pattern)):
        kind = LANGUAGES.get(file.suffix or file.name)
        if kind:
            lines += ["", f"## {file.name}", "", f"```{kind}", file.read_text().rstrip(), "```"]
    return "\n".join(lines)


def python_page() -> str:
    """All public names: those of building/python.md, which says what to show of classes, and the others after them."""
    page = (ROOT / "docs" / "building" / "python.md").read_text()
    listed = re.findall(r"^::: sapiens_ray\.(\w+)$", page, re.M)
    others = [name for name in sapiens_ray.__all__ if name not in (*listed, "__version__")]
    return page.replace("## Errors\n", "".join(f"::: sapiens_ray.{name}\n\n" for name in others) + "## Errors\n")


def help_page() -> str:
    """What `--help` prints, for every command."""
    from sapiens_ray.cli.commands import _parser

    os.environ["COLUMNS"] = "80"
    lines = ["# Help texts", "", "What `sapiens-ray COMMAND --help` prints. [The command line](cli.md) says more."]
    for command in commands(_parser([])):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            _parser(command.split()).parse_args([*command.split(), "--help"])
        lines += ["", f"## {command}", "", "```text", printed.getvalue().rstrip(), "```"]
    return "\n".join(lines)


def commands(parser: argparse.ArgumentParser, name: str = "") -> list[str]:
    """The names of all commands, with those of their own commands, in the order of the help."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        return [name]
    return [one for word, each in below[0].choices.items() for one in commands(each, f"{name} {word}".strip())]
