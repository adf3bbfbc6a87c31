"""Who agrees with whom on Ray's token. The heads are real: Ray's GCS server starts alone in a tenth of a second."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sapiens_ray.errors import ClusterError
from sapiens_ray.execution.authentication import refuse_disagreement, use_own_token
from tests.conftest import PATIENCE_S, free_port

VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")


@contextlib.contextmanager
def head(folder: Path, **settings: str):
    """host:port of the head of a cluster that has no nodes."""
    import ray

    port, ip = free_port(), ray.util.get_node_ip_address()
    server = Path(ray.__file__).parent / "core" / "src" / "ray" / "gcs" / "gcs_server"
    command = [server, f"--gcs_server_port={port}", f"--node_ip_address={ip}", "--session_name=test"]
    folders = [f"--session_dir={folder}", f"--log_dir={folder}"]
    env = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    log = (folder / "log.txt").open("wb")
    process = subprocess.Popen([*command, *folders], env={**env, **settings}, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection((ip, port), timeout=60).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log.txt").read_text()
                time.sleep(0.02)
        yield f"{ip}:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    with (
        head(tmp_path_factory.mktemp("open")) as without,
        head(tmp_path_factory.mktemp("token"), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="right") as with_token,
    ):
        yield {"open": without, "token": with_token}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder without a token, and no variable of the suite."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def keep(home: Path, token: str) -> Path:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{token}\n")
    return path


def refusal(address: str) -> str:
    try:
        refuse_disagreement(address, "--address here")
    except ClusterError as error:
        return str(error)
    return ""


ASKS = (
    "--address here: the cluster asks for a token. Set RAY_AUTH_MODE=token, and put the token that `ray "
    "get-auth-token` prints on its head into ~/.ray/auth_token (docs/cluster.md)"
)
NONE = (
    "--address here: the cluster asks for a token, and there is none in {}. Put the one there that `ray "
    "get-auth-token` prints on its head (docs/cluster.md)"
)
OTHER = (
    "--address here: the cluster has another token than {}. `ray get-auth-token` prints it on its head "
    "(docs/cluster.md)"
)
OPEN = (
    "--address here: the cluster runs without a token, but this process uses one ({}). Start the cluster with the "
    "token, or set RAY_AUTH_MODE=disabled here (docs/cluster.md)"
)


@pytest.mark.parametrize(
    ("kind", "settings", "kept", "expected"),
    [
        ("open", {}, None, ""),
        ("open", {}, "right", ""),  # Ray sends it to no address that a user names
        ("open", {"RAY_AUTH_MODE": "disabled"}, "right", ""),
        ("open", {"RAY_AUTH_MODE": "token"}, "right", OPEN.format("RAY_AUTH_MODE=token")),
        ("token", {}, None, ASKS),
        ("token", {}, "right", ASKS),
        ("token", {"RAY_AUTH_MODE": "disabled"}, "right", ASKS),
        ("token", {"RAY_AUTH_MODE": "token"}, None, NONE.format("~/.ray/auth_token")),
        ("token", {"RAY_AUTH_MODE": "token"}, "", NONE.format("~/.ray/auth_token")),
        ("token", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/no/file"}, "right", NONE.format("/no/file")),
        ("token", {"RAY_AUTH_MODE": "token"}, "wrong", OTHER.format("~/.ray/auth_token")),
        ("token", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}, "right", OTHER.format("RAY_AUTH_TOKEN")),
        ("token", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "right"}, "wrong", ""),
        ("token", {"RAY_AUTH_MODE": "Token"}, "right", ""),
    ],
)
def test_a_process_and_a_named_cluster_agree_or_one_line_says_what_to_do(
    heads, home, monkeypatch, kind, settings, kept, expected
):
    for name, setting in settings.items():
        monkeypatch.setenv(name, setting)
    if kept is not None:
        keep(home, kept)
    assert refusal(heads[kind]) == expected


@pytest.mark.parametrize(
    ("kind", "kept", "expected"),
    [
        ("open", None, ""),
        ("open", "right", OPEN.format("that in ~/.ray/auth_token")),
        ("token", None, ASKS),
        ("token", "wrong", OTHER.format("~/.ray/auth_token")),
        ("token", "right", ""),
    ],
)
def test_a_cluster_that_ray_finds_by_itself_is_sent_the_token_that_is_there(
    heads, home, monkeypatch, kind, kept, expected
):
    monkeypatch.setenv("RAY_ADDRESS", heads[kind])  # instead of a search for Ray's processes on this machine
    if kept is not None:
        keep(home, kept)
    assert refusal("auto") == expected


def test_what_cannot_be_asked_is_left_to_ray(heads, home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    assert refusal(f"127.0.0.1:{free_port()}") == "" == refusal(f"ray://{heads['token']}") == refusal("nonsense")
    monkeypatch.setenv("RAY_ENABLE_K8S_TOKEN_AUTH", "1")
    assert refusal(heads["token"]) == ""


@pytest.mark.parametrize("name", VARIABLES[:3])
def test_what_the_user_sets_stays(home, monkeypatch, name):
    monkeypatch.setenv(name, "disabled")
    before = dict(os.environ)
    use_own_token()
    assert dict(os.environ) == before


LOCALLY_THEN_ELSEWHERE = """
import os, sys, ray
from sapiens_ray.errors import ClusterError
from sapiens_ray.execution.authentication import refuse_disagreement
from sapiens_ray.execution.cluster import start_ray

def attempt(call, *arguments):
    try:
        call(*arguments)
    except ClusterError as error:
        print(error)

start_ray()
own, head = os.environ["RAY_AUTH_TOKEN"], ray.get_runtime_context().gcs_address
print(len(own), ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote()) == own)
for token in (own, "wrong"):
    os.environ["RAY_AUTH_TOKEN"] = token
    attempt(refuse_disagreement, head, "--address here")
os.environ["RAY_AUTH_TOKEN"] = own
ray.shutdown()
attempt(start_ray, sys.argv[1])
os.environ["RAY_ADDRESS"] = sys.argv[1]
attempt(start_ray, "auto")
from ray._raylet import AuthenticationMode, AuthenticationTokenLoader, get_authentication_mode
print(get_authentication_mode() == AuthenticationMode.DISABLED)
print(AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=True))
"""


def test_a_local_run_is_protected_by_a_token_that_it_takes_along(heads, home):
    keep(home, "right")
    before = sorted(home.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", LOCALLY_THEN_ELSEWHERE, heads["token"]],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "64 True",
        OTHER.format("RAY_AUTH_TOKEN"),
        ASKS.replace("here", heads["token"]),
        ASKS.replace("--address here", f"RAY_ADDRESS={heads['token']}"),
        "True",
        "right",
    ]
    assert sorted(home.rglob("*")) == before and (home / ".ray" / "auth_token").read_text() == "right\n"
