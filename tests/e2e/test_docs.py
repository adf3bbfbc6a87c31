"""Every command and snippet of the README runs for a new user, in the order of the README."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pyarrow.parquet as pq

from tests.conftest import ROOT
from tests.newcomer import Newcomer

README = (ROOT / "README.md").read_text()


def run_block(language: str, code: str, folder: Path, user: Newcomer) -> str:
    command = ["bash", "-euc", code] if language == "bash" else [sys.executable, "-c", code]
    done = user.run(*command, cwd=folder)
    assert done.code == 0, f"{code}\n{done.text}"
    return done.out


def test_make_demo_reports_its_result(demo, user):
    folder, done = demo
    assert "random weights: their labels mean nothing" in done.out
    assert f"{folder}/runs/demo/data/*.parquet" in done.out
    assert "5 (5 ok, 0 errors)" in done.out
    assert "Deprecat" not in done.err
    lines = done.out.splitlines()
    command = lines[lines.index("read a row:") + 1]
    read = user.run("bash", "-c", command, cwd=user.home)
    assert "astronaut.jpg" in read.out, read.err
    assert "RANDOM weights" in done.err
    assert not (user.home / ".ray").exists(), "a token there would change what `ray start` does for this user"


# What a user may try while the cluster of the README runs.
ON_THE_CLUSTER = """
run() {{ sapiens-ray run configs/demo.yaml --set output.uri=runs/refused --address {head} || echo "exit $?"; }}
echo == without; (unset RAY_AUTH_MODE; run)
echo == another; RAY_AUTH_TOKEN=another run
echo == submitted without; (unset RAY_AUTH_MODE; ray job submit -- true || echo "exit $?")
echo == nodes; {nodes}
sapiens-ray check configs/demo.yaml --address {head}
"""


def test_the_readme_works_after_the_demo(demo, user):
    checkout, _ = demo
    blocks = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 9, "a block was added or lost its language"
    docs = (ROOT / "docs" / "cluster.md").read_text()
    nodes, *_ = re.findall(r"```bash\n(.*?)```", docs, re.DOTALL)
    recipe, stop, rest = blocks[1][1].partition("ray stop")
    tries = ON_THE_CLUSTER.format(head=user.head, nodes=nodes)
    blocks[1] = ("bash", f"{recipe}exec 2>&1; set +e{tries}set -e; {stop}{rest}")
    printed = [run_block(language, code, checkout, user) for language, code in blocks]
    assert "5 in 1 shard (list)" in printed[0] and "5 of 5 (100.0 %)" in printed[0]
    check_the_cluster(printed[1], user, docs)
    (on_cluster,) = (checkout / "runs" / "on-cluster" / "data").iterdir()
    columns = set(pq.read_schema(on_cluster).names)
    assert {"seg", "depth", "normal", "persons", "features"} <= columns
    assert printed[2].split("\n")[:2] == ["astronaut.jpg (512, 512)", "(512, 512) (512, 512, 3)"]
    assert "grace_hopper.jpg" in printed[4]
    assert "(512, 512)" in printed[5]
    assert printed[6].splitlines()[:3] == ["5 images", "look/preview.png", "look/preview.html"]
    assert "5 images, 0 errors: report.html" in printed[6]
    assert printed[6].splitlines()[-2:] == ["5 images", "doubtful.csv"], "random models are never sure"
    assert "(512, 512)" in printed[7] and "1 person, 17 keypoints" in printed[7]
    assert "pose308-1b" in printed[8] and "as it is, cast" in printed[8] and "seg_random_bfloat16.pt2" in printed[8]
    assert (checkout / "runs" / "lite" / "seg" / "crops" / "hopper_face_seg.npy").exists()
    exported = ("lite/persons/astronaut.json", "lite/depth/crops/hopper_face.npy", "coco/persons.json", "coco/seg.json")
    for written in (*exported, "masks/seg/grace_hopper.png"):
        assert (checkout / "runs" / written).exists(), written


def check_the_cluster(printed: str, user: Newcomer, docs: str) -> None:
    """The job of the README ran, and what happens to those without the token is what docs/cluster.md says."""
    job, without, another, submitted, nodes = printed.split("\n== ")
    assert "5 (5 ok, 0 errors)" in job
    for text, line in (
        (without, f"--address {user.head}: the cluster asks for a token. Set RAY_AUTH_MODE=token, and put"),
        (another, f"--address {user.head}: the cluster has another token than RAY_AUTH_TOKEN. `ray get-auth-token`"),
    ):
        assert f"\nsapiens-ray: {line}" in text and text.endswith("\nexit 2") and "Traceback" not in text, text
    message = "Authentication token is missing or incorrect"
    assert message in submitted and submitted.endswith("\nexit 1") and f"`{message}`" in docs, submitted
    assert "the cluster of 2 nodes has 4 CPUs" in nodes, nodes
    assert (user.folder / "node-2" / ".ray" / "auth_token").exists()
    assert "Stopped all" in nodes, nodes


def test_readme_blocks_name_what_they_need_beyond_the_install():
    """For each python block: what it imports is the package, Python itself, or a dependency of the package. What is
    not stands in a `pip install` in the text just before the block."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = {re.split(r"[\[<>=~!; ]", one)[0].lower().replace("_", "-") for one in project["dependencies"]}
    installed.add(project["name"])
    providers = packages_distributions()
    needed = []
    texts, languages, blocks = (re.split(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)[part::3] for part in range(3))
    assert languages.count("python") == 5
    for text, language, code in zip(texts, languages, blocks, strict=False):
        if language != "python":
            continue
        before = text.strip().rpartition("\n\n")[2]
        named = {name for names in re.findall(r"`pip install ([^`]+)`", before) for name in names.split()}
        for module in imported_modules(code) - sys.stdlib_module_names:
            sources = {name.lower().replace("_", "-") for name in providers.get(module, [module])}
            if not sources & installed:
                needed.append(module)
                assert sources & named, f"{code}\nneeds `pip install {module}` in the text before it: {before!r}"
    assert needed == ["datasets", "datasets"]


def imported_modules(code: str) -> set[str]:
    """The first parts of the names of all modules that a block imports."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_the_commands_of_the_page_about_the_command_line_work(demo, user):
    checkout, _ = demo
    (code,) = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "cli.md").read_text(), re.DOTALL)
    printed = run_block("bash", code, checkout, user).splitlines()
    assert printed == ["first.yaml", "5 of 5 (100.0 %): 5 ok, 0 errors; complete", "5 images"]
    assert "complete -o bashdefault" in (checkout / "completion.bash").read_text()
    assert (checkout / "errors.jsonl").read_text() == ""
    assert json.loads((checkout / "result.json").read_text())["event"] == "finished"


def test_the_pictures_of_the_readme_exist():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures == ["docs/images/cover.png"]
    assert (ROOT / pictures[0]).stat().st_size < 400_000


def test_the_job_of_the_readme_is_valid():
    import yaml

    from sapiens_ray import Job

    text, on_s3 = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    job = Job.parse(yaml.safe_load(text))
    assert job.output.visualize.fraction == 0.01
    stored = Job.parse({**yaml.safe_load(text), **yaml.safe_load(on_s3)})
    assert stored.input.uri == ["s3://bucket/photos/"]


def test_the_error_kinds_in_the_docs_equal_those_in_the_code():
    section = (ROOT / "docs" / "outputs.md").read_text().split("## Kinds of error")[1].split("| --- |")[1]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    source = "".join(path.read_text() for path in (ROOT / "sapiens_ray").rglob("*.py"))
    raised = set(re.findall(r'ImageError\(\s*"(\w+)"', source)) | {"failed"}
    raised |= set(re.findall(r'quarantined\[.*\("(\w+)", ', source))  # kinds of images that kill their worker
    assert documented == raised
