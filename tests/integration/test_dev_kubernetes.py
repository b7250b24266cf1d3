"""hack/dev-kubernetes brings up a real control plane, keeps it as asked, and takes all of it down again.

CEPH_PROVISIONER_TEST_KUBERNETES chooses the version (1.30 or 1.36); `make` builds it beforehand. About 45 s.
"""

import json
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).resolve().parents[2] / "hack" / "dev-kubernetes"
VERSION = os.environ.get("CEPH_PROVISIONER_TEST_KUBERNETES", "1.30")
DAEMONS = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
VOLUMES = "/api/v1/persistentvolumes"
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"


def tool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TOOL, *words], capture_output=True, text=True, timeout=240)


def start(home: Path, *words: str) -> dict[str, str]:
    """Start a cluster; what its last line says."""
    done = tool("start", home, "--version", VERSION, *words)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def pids(home: Path) -> dict[str, int | None]:
    """Pid by daemon, None for one that does not run, as `status` says it."""
    lines = (line.partition(": ") for line in tool("status", home).stdout.splitlines())
    return {name: int(words.split()[1].rstrip(",")) if words.startswith("pid ") else None for name, _, words in lines}


def kill(home: Path, daemon: str) -> None:
    pid = pids(home)[daemon]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def processes_in(home: Path) -> list[str]:
    """Every process that works in the directory, whatever the tool thinks of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")).is_relative_to(home):
                found.append((process / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


@dataclass(frozen=True, slots=True)
class Api:
    """The API server behind a kubeconfig, asked as its administrator or with a token."""

    kubeconfig: dict[str, Any]

    @classmethod
    def of(cls, path: str) -> "Api":
        return cls(json.loads(Path(path).read_text()))

    @contextmanager
    def ask(self, path: str, body: object = None, token: str | None = None) -> Iterator[HTTPResponse]:
        """GET, or POST of a body; an empty token sends no credentials."""
        cluster, user = self.kubeconfig["clusters"][0]["cluster"], self.kubeconfig["users"][0]["user"]
        context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        if token is None:
            context.load_cert_chain(user["client-certificate"], user["client-key"])
        connection = HTTPSConnection(cluster["server"].removeprefix("https://"), timeout=60, context=context)
        with closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request("GET" if data is None else "POST", path, data, headers)
            yield connection.getresponse()

    def call(self, path: str, body: object = None) -> Any:
        with self.ask(path, body) as answer:
            assert answer.status < 300, answer.read()
            return json.load(answer)

    def refusal(self, path: str, token: str) -> tuple[int, str]:
        """Status and message of an answer."""
        with self.ask(path, token=token) as answer:
            return answer.status, json.load(answer)["message"]

    def until(self, path: str, name: str, phase: str) -> dict[str, Any]:
        """Watch one object until its status has that phase."""
        with self.ask(f"{path}?watch=1&timeoutSeconds=30&fieldSelector=metadata.name%3D{name}") as events:
            for line in events:
                seen: dict[str, Any] = json.loads(line)["object"]
                assert seen["kind"] != "Status", seen
                if seen["status"].get("phase") == phase:
                    return seen
        raise AssertionError(f"{name} never became {phase}")


def rbd_volume(name: str, claim: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "rbd": {"monitors": ["127.0.0.1:6789"], "pool": "rbd", "image": name, "user": "someone"},
            "claimRef": {"namespace": "default", "name": claim},
            "storageClassName": "",
        },
    }


def claim_of(name: str, volume: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "volumeName": volume,
            "storageClassName": "",
        },
    }


@dataclass(frozen=True, slots=True)
class Running:
    home: Path
    said: dict[str, str]
    api: Api


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("kubernetes") / "cluster"
    try:
        said = start(home)
        yield Running(home, said, Api.of(said["kubeconfig"]))
    finally:
        tool("stop", "--purge", home)


def test_the_server_is_the_version_that_was_asked_for(cluster: Running) -> None:
    served = cluster.api.call("/version")["gitVersion"]
    assert served == cluster.said["version"]
    assert served.startswith(f"v{VERSION}.")


def test_nobody_without_credentials_reads_anything(cluster: Running) -> None:
    code, message = cluster.api.refusal(VOLUMES, token="")
    assert (code, "system:anonymous" in message) == (403, True)


def test_a_service_account_without_a_role_reads_no_volumes(cluster: Running) -> None:
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = cluster.api.call("/api/v1/namespaces/default/serviceaccounts/default/token", request)["status"]["token"]
    code, message = cluster.api.refusal(VOLUMES, token=token)
    assert (code, "system:serviceaccount:default:default" in message) == (403, True)


def test_a_claim_and_the_rbd_volume_made_for_it_are_bound_to_each_other(cluster: Running) -> None:
    cluster.api.call(CLAIMS, claim_of("data", volume="pvc-data"))
    cluster.api.call(VOLUMES, rbd_volume("pvc-data", claim="data"))
    claim = cluster.api.until(CLAIMS, "data", "Bound")
    volume = cluster.api.until(VOLUMES, "pvc-data", "Bound")
    assert volume["spec"]["claimRef"]["uid"] == claim["metadata"]["uid"]
    assert volume["spec"]["rbd"]["image"] == "pvc-data"


def test_status_names_every_daemon(cluster: Running) -> None:
    seen = pids(cluster.home)
    assert list(seen) == DAEMONS
    assert None not in seen.values()


def test_a_second_start_leaves_running_daemons_alone(cluster: Running) -> None:
    before = pids(cluster.home)
    assert start(cluster.home) == cluster.said
    assert pids(cluster.home) == before


def test_a_start_brings_back_what_died_and_nothing_else(cluster: Running) -> None:
    before = pids(cluster.home)
    kill(cluster.home, "kube-scheduler")
    start(cluster.home)
    after = pids(cluster.home)
    assert after["kube-scheduler"] not in (None, before["kube-scheduler"])
    assert after | {"kube-scheduler": 0} == before | {"kube-scheduler": 0}


def test_a_killed_api_server_restarts_with_all_it_knew(cluster: Running) -> None:
    known = cluster.api.call("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    kill(cluster.home, "kube-apiserver")
    assert tool("restart-daemon", cluster.home, "kube-apiserver").returncode == 0
    assert cluster.api.call("/api/v1/namespaces/kube-system")["metadata"]["uid"] == known


def test_a_cluster_of_another_version_is_not_started_over_it(cluster: Running) -> None:
    other = {"1.30": "1.36", "1.36": "1.30"}[VERSION]
    done = tool("start", cluster.home, "--version", other)
    assert done.returncode == 1
    assert f"holds a cluster of {VERSION}" in done.stderr


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "cluster"
    tool("stop", "--purge", tmp_path / "cluster")


def test_stop_leaves_no_process(home: Path) -> None:
    start(home, "--no-scheduler")
    assert list(pids(home)) == DAEMONS[:3]
    assert len(processes_in(home)) == 3
    assert tool("stop", home).returncode == 0
    assert processes_in(home) == []
    assert tool("stop", "--purge", home).returncode == 0
    assert not home.exists()


def test_a_start_that_fails_says_why_and_leaves_no_process(home: Path) -> None:
    done = tool("start", home, "--version", VERSION, "--controller-manager-arg=--no-such-flag")
    assert done.returncode == 1
    assert "unknown flag: --no-such-flag" in done.stderr
    assert processes_in(home) == []


def test_a_stranger_who_was_given_a_daemons_pid_is_spared(cluster: Running) -> None:
    pidfile = cluster.home / "run" / "kube-scheduler.pid"
    boot, stat = pidfile.read_text().splitlines()
    kill(cluster.home, "kube-scheduler")
    with subprocess.Popen(["sleep", "60"]) as stranger:
        pidfile.write_text(f"{boot}\n{stranger.pid} {stat.partition(' ')[2]}\n")
        assert tool("restart-daemon", cluster.home, "kube-scheduler").returncode == 0
        assert stranger.poll() is None
        stranger.kill()
    assert pids(cluster.home)["kube-scheduler"] not in (None, stranger.pid)


@pytest.mark.parametrize("command", [["start"], ["stop", "--purge"]], ids=" ".join)
def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = tool(*command, tmp_path)
    assert done.returncode == 1
    assert "holds no cluster" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
