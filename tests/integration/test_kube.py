"""provisioner.kube against a real API server: what its own tests take for granted of the protocol is so.

CEPH_PROVISIONER_TEST_KUBERNETES chooses the version, as for the other tests with a cluster. About 60 s.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.kube import errors
from provisioner.kube.events import Recorder
from provisioner.kube.kubeconfig import Access, load
from provisioner.kube.leader import Elector, new_identity
from provisioner.kube.reflector import Pace, Reflector
from provisioner.kube.resources import CONFIG_MAPS, EVENTS, LEASES, NAMESPACES, PERSISTENT_VOLUMES, SECRETS, Object, Resource
from provisioner.kube.transport import Api, Limits
from tests.harness.waiting import until

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "hack" / "dev-kubernetes"
VERSION = os.environ.get("CEPH_PROVISIONER_TEST_KUBERNETES", "1.30")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", namespaced=True)

CANDIDATE = """
import sys, threading
from provisioner.kube.kubeconfig import load
from provisioner.kube.leader import Elector
from provisioner.kube.transport import Api
api = Api(load(sys.argv[1]), "test/1")
Elector(api, sys.argv[2], "claims", sys.argv[3], lambda: print("leading", flush=True), lambda: None).start()
threading.Event().wait()
"""


def tool(*words: str | Path) -> str:
    done = subprocess.run([TOOL, *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a running cluster, which these tests may hurt."""
    home = tmp_path_factory.mktemp("kube") / "cluster"
    try:
        tool("start", home, "--version", VERSION, "--no-scheduler")
        yield home
    finally:
        tool("stop", "--purge", home)


@pytest.fixture(scope="module")
def access(home: Path) -> Access:
    return load(str(home / "kubeconfig"))


@pytest.fixture
def api(access: Access) -> Iterator[Api]:
    api = Api(access, "test/1", Limits(read=10))
    yield api
    api.close()


@pytest.fixture
def namespace(api: Api, request: pytest.FixtureRequest) -> str:
    name = f"t-{abs(hash(request.node.name)):x}"
    api.create(NAMESPACES.path(), NAMESPACES.body({"name": name}))
    return name


@pytest.fixture
def maps(namespace: str) -> str:
    """The path of a collection that nobody else writes to, but for the kube-root-ca.crt of every namespace."""
    return CONFIG_MAPS.path(namespace)


Start = Callable[[str], Reflector]


@pytest.fixture
def reflect(api: Api) -> Iterator[Start]:
    started: list[Reflector] = []

    def start(path: str) -> Reflector:
        mine = {"fieldSelector": "metadata.name!=kube-root-ca.crt"}
        reflector = Reflector(api, path, lambda _old, _new: None, selectors=mine, pace=Pace(page=7))
        reflector.start()
        started.append(reflector)
        assert reflector.wait_synced(30)
        return reflector

    yield start
    for reflector in started:
        assert reflector.stop(15)


def config_map(name: str, **data: str) -> Object:
    return CONFIG_MAPS.body({"name": name}, data=data)


class TestTransport:
    def test_an_object_lives_and_dies(self, api: Api, maps: str) -> None:
        made = api.create(maps, config_map("a", x="1"))
        assert api.get(f"{maps}/a")["metadata"]["uid"] == made["metadata"]["uid"]
        assert api.patch(f"{maps}/a", {"data": {"x": "2"}})["data"] == {"x": "2"}
        assert api.patch(f"{maps}/a", [{"op": "remove", "path": "/data/x"}], "json").get("data") is None
        assert api.patch(f"{maps}/a", {"data": {"y": "3"}}, "strategic")["data"] == {"y": "3"}
        api.delete(f"{maps}/a")
        with pytest.raises(errors.NotFound):
            api.get(f"{maps}/a")

    def test_a_stale_version_is_a_conflict(self, api: Api, maps: str) -> None:
        stale = api.create(maps, config_map("a", x="1"))
        api.patch(f"{maps}/a", {"data": {"x": "2"}})
        with pytest.raises(errors.Conflict) as caught:
            api.replace(f"{maps}/a", {**stale, "data": {"x": "3"}})
        assert type(caught.value) is errors.Conflict

    def test_a_precondition_that_fails_is_a_conflict(self, api: Api, maps: str) -> None:
        api.create(maps, config_map("a"))
        with pytest.raises(errors.Conflict):
            api.delete(f"{maps}/a", {"preconditions": {"uid": "somebody-else"}})

    def test_a_taken_name(self, api: Api, maps: str) -> None:
        api.create(maps, config_map("a"))
        with pytest.raises(errors.AlreadyExists):
            api.create(maps, config_map("a"))

    def test_what_is_wrong_with_an_object_is_told_by_field(self, api: Api) -> None:
        with pytest.raises(errors.Invalid) as caught:
            api.create(PERSISTENT_VOLUMES.path(), PERSISTENT_VOLUMES.body({"name": "pv-1"}, spec={}))
        assert "spec.capacity" in {cause.field for cause in caught.value.causes}

    def test_a_namespace_that_ends_says_so(self, api: Api, maps: str, namespace: str) -> None:
        api.create(maps, CONFIG_MAPS.body({"name": "a", "finalizers": ["test.test/holds"]}))
        api.delete(NAMESPACES.path(name=namespace))
        with pytest.raises(errors.Forbidden) as caught:
            api.create(maps, config_map("b"))
        assert "NamespaceTerminating" in {cause.reason for cause in caught.value.causes}
        api.patch(f"{maps}/a", {"metadata": {"finalizers": None}})

    def test_pages_make_a_whole_of_one_version(self, api: Api, maps: str) -> None:
        for index in range(23):
            api.create(maps, config_map(f"m-{index:02}"))
        pages = list(api.list_pages(maps, limit=5))
        names = [item["metadata"]["name"] for page in pages for item in page.items]
        assert [name for name in names if name.startswith("m-")] == [f"m-{index:02}" for index in range(23)]
        assert len({page.resource_version for page in pages}) == 1
        assert {item["kind"] for page in pages for item in page.items} == {"ConfigMap"}

    def test_a_version_from_before_a_restart_is_gone(self, home: Path, api: Api, maps: str) -> None:
        old = api.list_all(maps).resource_version
        api.create(maps, config_map("a"))
        tool("restart-daemon", home, "kube-apiserver")
        with pytest.raises(errors.Gone):
            list(api.watch(maps, old, seconds=5))

    def test_a_watch_ends_when_it_was_to(self, api: Api, maps: str) -> None:
        version = api.list_all(maps).resource_version
        started = time.monotonic()
        list(api.watch(maps, version, seconds=2))
        assert 1 <= time.monotonic() - started < 10

    def test_a_service_accounts_token_opens_what_it_may_and_no_more(
        self, api: Api, access: Access, namespace: str, tmp_path: Path
    ) -> None:
        accounts = SERVICE_ACCOUNTS.path(namespace)
        api.create(accounts, SERVICE_ACCOUNTS.body({"name": "claims"}))
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        granted = api.create(f"{accounts}/claims/token", asked)
        (tmp_path / "token").write_text(granted["status"]["token"])
        as_pod = replace(access, certificate=None, key=None, token_file=tmp_path / "token")
        pod = Api(as_pod, "test/1")
        assert pod.get("/api/v1")["kind"] == "APIResourceList"
        with pytest.raises(errors.Forbidden, match=f"system:serviceaccount:{namespace}:claims"):
            pod.get(SECRETS.path(namespace))

    def test_a_wrong_token_is_unauthorized(self, access: Access) -> None:
        with pytest.raises(errors.Unauthorized):
            Api(replace(access, certificate=None, key=None, token="wrong"), "test/1").get("/api/v1")


class TestReflector:
    def test_it_sees_what_is_there_and_what_happens(self, api: Api, maps: str, reflect: Start, namespace: str) -> None:
        for index in range(20):
            api.create(maps, config_map(f"m-{index:02}"))
        store = reflect(maps).store
        assert len(store) == 20
        api.create(maps, config_map("new", x="1"))
        until(lambda: store.get(f"{namespace}/new"), 60, "the new one is seen")
        api.patch(f"{maps}/new", {"data": {"x": "2"}})
        until(lambda: (store.get(f"{namespace}/new") or {})["data"] == {"x": "2"}, 60, "the change is seen")
        api.delete(f"{maps}/new")
        until(lambda: store.get(f"{namespace}/new") is None, 60, "the end is seen")

    def test_it_survives_the_server(self, home: Path, api: Api, maps: str, reflect: Start) -> None:
        """Killed and restarted three times while somebody writes all the time: in the end it has what the server has."""
        store = reflect(maps).store
        writing = threading.Event()
        writer = threading.Thread(target=self.write_until, args=(writing, api, maps))
        writer.start()
        for _ in range(3):
            kill(home, "kube-apiserver")
            tool("restart-daemon", home, "kube-apiserver")
        writing.set()
        writer.join()
        api.create(maps, config_map("last"))
        until(lambda: versions(store.items()) == versions(self.listed(api, maps)), 60, "the store is what the server has")
        assert len(store) > 3

    def write_until(self, end: threading.Event, api: Api, maps: str) -> None:
        """Make, change and delete, and take a refused connection for nothing."""
        for number in range(1_000_000):
            if end.wait(0.005):
                return
            with suppress(errors.KubeError):
                api.create(maps, config_map(f"m-{number}"))
                api.patch(f"{maps}/m-{number // 2}", {"data": {"x": str(number)}})
                api.delete(f"{maps}/m-{number // 3}")

    def listed(self, api: Api, maps: str) -> list[Object]:
        return [item for item in api.list_all(maps).items if item["metadata"]["name"] != "kube-root-ca.crt"]

    def test_it_survives_a_frozen_server(self, home: Path, api: Api, maps: str, namespace: str) -> None:
        pace = Pace(silence=3)
        reflector = Reflector(api, maps, lambda _old, _new: None, pace=pace)
        reflector.start()
        assert reflector.wait_synced(30)
        server = pid(home, "kube-apiserver")
        os.kill(server, signal.SIGSTOP)
        try:
            until(lambda: reflector.trouble, 60, "the silence is noticed")
        finally:
            os.kill(server, signal.SIGCONT)
        api.create(maps, config_map("after"))
        until(lambda: reflector.store.get(f"{namespace}/after"), 60, "news arrive again")
        assert reflector.stop(15)


class TestElector:
    def test_a_leader_killed_is_followed_within_twenty_seconds(self, home: Path, api: Api, namespace: str) -> None:
        first = self.candidate(home, namespace, "first")
        assert first.stdout is not None
        assert first.stdout.readline() == "leading\n"
        second = self.candidate(home, namespace, "second")
        assert second.stdout is not None
        try:
            until(lambda: renewed(lease(api, namespace)), 60, "a first renewal")
            first.kill()
            killed = time.monotonic()
            assert second.stdout.readline() == "leading\n"
            assert 10 < time.monotonic() - killed < 20
            assert (lease(api, namespace)["holderIdentity"], lease(api, namespace)["leaseTransitions"]) == ("second", 1)
        finally:
            for process in (first, second):
                process.kill()
                process.communicate()

    def candidate(self, home: Path, namespace: str, name: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", CANDIDATE, str(home / "kubeconfig"), namespace, name]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)

    def test_a_leader_that_exits_is_followed_at_once(self, access: Access, api: Api, namespace: str) -> None:
        one, two = (self.elector(Api(access, "test/1"), namespace) for _ in range(2))
        one.start()
        assert one.wait_leading(10)
        two.start()
        until(lambda: two.holder == one.identity, 60, "the second has looked")
        assert one.stop()
        left = time.monotonic()
        assert two.wait_leading(10)
        assert time.monotonic() - left < 4
        assert two.stop()
        assert lease(api, namespace)["holderIdentity"] == ""

    def elector(self, api: Api, namespace: str) -> Elector:
        return Elector(api, namespace, "claims", new_identity(), lambda: None, lambda: None)


class TestRecorder:
    def test_events_are_found_with_their_object(self, api: Api, maps: str, namespace: str) -> None:
        about = api.create(maps, config_map("a"))
        recorder = Recorder(api, "ceph-provisioner", "replica-0")
        recorder.start()
        for _ in range(3):
            recorder.event(about, "Warning", "ProvisioningFailed", "pool full")
        assert recorder.stop(10)
        selector = {"fieldSelector": f"involvedObject.uid={about['metadata']['uid']}"}
        (event,) = api.list_all(EVENTS.path(namespace), selector).items
        assert (event["type"], event["count"], event["message"]) == ("Warning", 3, "pool full")
        assert recorder.dropped == 0

    def test_events_about_what_has_no_namespace_are_accepted(self, api: Api, namespace: str) -> None:
        recorder = Recorder(api, "ceph-provisioner")
        recorder.start()
        recorder.event(api.get(NAMESPACES.path(name=namespace)), "Normal", "Told", "is accepted")
        assert recorder.stop(10)
        assert recorder.dropped == 0


def lease(api: Api, namespace: str) -> Object:
    spec: Object = api.get(LEASES.path(namespace, "claims"))["spec"]
    return spec


def renewed(spec: Object) -> bool:
    return bool(spec["renewTime"] != spec["acquireTime"])


def versions(items: list[Object]) -> dict[str, str]:
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in items}


def pid(home: Path, daemon: str) -> int:
    for line in tool("status", home).splitlines():
        name, _, words = line.partition(": pid ")
        if name == daemon:
            return int(words.split(",")[0])
    raise AssertionError(f"{daemon} does not run")


def kill(home: Path, daemon: str) -> None:
    os.kill(pid(home, daemon), signal.SIGKILL)
