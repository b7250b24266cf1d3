"""hack/dev-kubernetes --kubelet runs pods on this machine, and takes all of it away again. About 25 seconds."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.kubernetes.image import NAME as IMAGE
from hack.kubernetes.remains import Remains
from tests.harness.waiting import until
from tests.integration.test_dev_kubernetes import Api, pids, processes_in, start, tool

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A directory with a short name: below it are the sockets of CSI plugins."""
    with tempfile.TemporaryDirectory(prefix="cp-node-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield Path(directory) / "k"
        tool("stop", "--purge", Path(directory) / "k")


@pytest.fixture(scope="module")
def api(home: Path) -> Api:
    """Of a cluster with a node, on which a pod runs."""
    api = Api.of(start(home, "--kubelet")["kubeconfig"])
    container = {"name": "main", "image": IMAGE, "command": ["sh", "-c", "echo hello; sleep 1000 & wait"]}
    spec = {"hostNetwork": True, "containers": [container], "terminationGracePeriodSeconds": 1}
    api.call(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "first"}, "spec": spec})
    api.until(PODS, "first", "Running")
    return api


def remains(home: Path) -> dict[str, list[Any]]:
    """What there is of a node, on this machine and beyond its directory."""
    found = Remains(home)
    links = [link for link in Path("/var/log/containers").glob("*") if str(home) in os.readlink(link)]
    groups = [group for group in found.groups() if group.exists()]
    return {"processes": processes_in(home), "mounts": found.mounts(), "control groups": groups, "links": links}


def test_a_pod_runs_in_a_container_with_the_machines_network(home: Path, api: Api) -> None:
    status = api.call(f"{PODS}/first")["status"]
    assert status["hostIP"] == status["podIP"]
    assert all(remains(home).values()), remains(home)


def test_the_api_server_reaches_the_kubelet(home: Path, api: Api) -> None:
    with api.ask(f"{PODS}/first/log") as answer:
        assert (answer.status, answer.read()) == (200, b"hello\n")


def test_a_pod_outlives_the_kubelet(home: Path, api: Api) -> None:
    before = api.call(f"{PODS}/first")["status"]["containerStatuses"][0]["containerID"]
    assert tool("restart-daemon", home, "kubelet").returncode == 0
    assert api.call(f"{PODS}/first")["status"]["containerStatuses"][0]["containerID"] == before


def test_a_stop_leaves_nothing_though_both_daemons_were_killed(home: Path, api: Api) -> None:
    sockets = [Path(file.read_text().removeprefix("unix://")) for file in home.glob("containerd/state/*/*/*/address")]
    for daemon in ("kubelet", "containerd"):
        pid = pids(home)[daemon]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    groups = Remains(home).groups()
    done = tool("stop", home)
    assert done.returncode == 0, done.stderr
    until(lambda: not any(remains(home).values()), 60, "nothing is left", lambda: str(remains(home)))
    assert [path for path in (*sockets, *groups) if path.exists()] == []


def test_a_directory_too_long_for_sockets_is_refused_before_anything_starts(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 80)
    done = tool("start", home, "--kubelet")
    assert done.returncode == 1
    assert "bytes too long for the sockets of CSI plugins" in done.stderr
    assert processes_in(home) == []
