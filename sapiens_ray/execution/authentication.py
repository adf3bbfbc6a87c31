"""Ray's authentication: one token, which every process of a cluster sends and checks.

RAY_AUTH_MODE switches it on (token) or off (disabled). The token comes from RAY_AUTH_TOKEN, else from the file
RAY_AUTH_TOKEN_PATH, else from ~/.ray/auth_token. All processes of a cluster and its clients must agree. Where they do
not, Ray tries again for minutes, or loses its actors; so we ask first. docs/cluster.md tells users what to do.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from sapiens_ray.errors import ClusterError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
DEFAULT_PATH = "~/.ray/auth_token"
# Answered at once by the head of a cluster, and like everything there only to those who send the token.
CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"

_own_token = ""  # of the clusters that this process starts; empty before the first


def use_own_token() -> None:
    """Give the cluster that this process is about to start a token that no other process knows.

    By default Ray writes one to ~/.ray, where it changes what `ray start` does for this user from then on. That also
    fails where the home folder cannot be written, and two first runs at the same time overwrite each other's.
    What the user sets is respected.
    """
    global _own_token
    if not any(name in os.environ for name in (MODE, TOKEN, TOKEN_PATH)):
        _own_token = os.environ[TOKEN] = secrets.token_hex(32)


def forget_own_token() -> None:
    """Use the token of the user again, to connect to another cluster than that of this process.

    Ray leaves its mode in the environment and keeps both in memory, where only a private API reaches them.
    """
    if not _own_token or os.environ.get(TOKEN) != _own_token:
        return
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    del os.environ[TOKEN]
    os.environ.pop(MODE, None)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def refuse_disagreement(address: str, what: str) -> None:
    """Raise ClusterError if this process and the cluster at host:port, or `auto`, do not agree on a token.

    what: how the user named the cluster, for the message. A cluster that cannot be asked is left to Ray: `ray://`,
    TLS, and where this process sends a token of Kubernetes.
    """
    head = _head(address)
    if head is None or os.environ.get("RAY_ENABLE_K8S_TOKEN_AUTH"):
        return
    token, place = _token()
    mode = os.environ.get(MODE)
    # An address never makes Ray send the token that happens to be there; a cluster that it found by itself does.
    sends = mode.lower() == "token" if mode is not None else address == "auto" and token is not None
    answer = _answer(head)
    if answer == "OK" and sends:
        why = f"{MODE}={mode}" if mode is not None else f"that in {place}"
        raise ClusterError(
            f"{what}: the cluster runs without a token, but this process uses one ({why}). Start the cluster with "
            f"the token, or set {MODE}=disabled here (docs/cluster.md)"
        )
    if answer != "UNAUTHENTICATED":
        return
    if not sends:
        raise ClusterError(
            f"{what}: the cluster asks for a token. Set {MODE}=token, and put the token that `ray get-auth-token` "
            f"prints on its head into {DEFAULT_PATH} (docs/cluster.md)"
        )
    if token is None:
        raise ClusterError(
            f"{what}: the cluster asks for a token, and there is none in {place}. Put the one there "
            "that `ray get-auth-token` prints on its head (docs/cluster.md)"
        )
    if _answer(head, token) == "UNAUTHENTICATED":
        raise ClusterError(
            f"{what}: the cluster has another token than {place}. `ray get-auth-token` prints it on its head "
            "(docs/cluster.md)"
        )


def _head(address: str) -> str | None:
    """host:port of the head of a cluster; None where that is not known."""
    if address == "auto":
        try:
            from ray._private.services import canonicalize_bootstrap_address

            address = canonicalize_bootstrap_address(address) or ""
        except Exception:  # there is no cluster; ray.init() says so
            return None
    return None if "://" in address or not address.rpartition(":")[2].isdigit() else address


def _token() -> tuple[str | None, str]:
    """The token of this process, and where it is or should be."""
    if token := os.environ.get(TOKEN):
        return token, TOKEN
    place = os.environ.get(TOKEN_PATH) or DEFAULT_PATH
    try:
        return Path(place).expanduser().read_text().strip() or None, place
    except (OSError, RuntimeError, ValueError):
        return None, place


def _answer(head: str, token: str | None = None) -> str:
    """What the head of a cluster says to a request with a token or without one: OK, or the name of a gRPC status."""
    import grpc  # type: ignore[import-untyped]  # Ray needs it, too

    sent = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(head, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(CLUSTER_ID)(b"", timeout=10, metadata=sent)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"
