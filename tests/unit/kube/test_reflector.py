"""The reflector: its store becomes what the server has, whatever happens on the way, and every change is told once."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from provisioner.kube.backoff import Backoff
from provisioner.kube.reflector import Pace, Reflector
from provisioner.kube.resources import PERSISTENT_VOLUMES, Object
from provisioner.kube.transport import Api
from tests.harness.waiting import until
from tests.unit.kube.troubled_apiserver import (
    Answer,
    Server,
    cut_in_an_event,
    hung_up,
    nonsense,
    page_of_a_proxy,
    refused,
    silent,
    streamed,
)

VOLUMES = PERSISTENT_VOLUMES.path()
FAST = Pace(watch=60, silence=0.5, page=3, backoff=Backoff(first=0.02, most=0.1))


class Diary:
    """What a reflector told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, old: Object | None, new: Object | None) -> None:
        item = new or old
        assert item is not None
        what = "new" if old is None else "gone" if new is None else "changed"
        with self._changed:
            self.lines.append(f"{what} {item['metadata']['name']}")
            self._changed.notify_all()

    def has(self, *lines: str) -> bool:
        """Whether exactly these lines come, within a while."""
        with self._changed:
            return self._changed.wait_for(lambda: self.lines == list(lines), 10)


def volume(name: str, claim: str = "") -> Object:
    return PERSISTENT_VOLUMES.body({"name": name, "managedFields": [{}]}, spec={"claimRef": {"uid": claim}})


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def reflect(api: Api, diary: Diary) -> Iterator[Callable[..., Reflector]]:
    started: list[Reflector] = []

    def start(**more: object) -> Reflector:
        reflector = Reflector(api, VOLUMES, diary, pace=FAST, **more)  # type: ignore[arg-type]
        reflector.start()
        started.append(reflector)
        return reflector

    yield start
    for reflector in started:
        assert reflector.stop()


def put(server: Server, name: str, claim: str = "") -> None:
    server.kept.write(("persistentvolumes", "", name), volume(name, claim))


def remove(server: Server, name: str) -> None:
    server.kept.remove(("persistentvolumes", "", name))


Start = Callable[..., Reflector]


def test_what_is_there_is_new(server: Server, reflect: Start, diary: Diary) -> None:
    for name in "abcde":
        put(server, name)
    assert reflect().wait_synced(10)
    assert diary.lines == ["new a", "new b", "new c", "new d", "new e"]


def test_what_happens_is_told_in_order(server: Server, reflect: Start, diary: Diary) -> None:
    reflector = reflect()
    assert reflector.wait_synced(10)
    put(server, "a")
    put(server, "a")
    put(server, "b")
    remove(server, "a")
    assert diary.has("new a", "changed a", "new b", "gone a")
    assert reflector.store.keys() == {"b"}


def test_an_empty_collection_is_synced(reflect: Start) -> None:
    assert reflect().wait_synced(10)


@pytest.mark.parametrize("end", [cut_in_an_event, nonsense, hung_up, silent])
def test_after_a_broken_watch_it_watches_on_without_listing(server: Server, reflect: Start, diary: Diary, end: Answer) -> None:
    server.next("watch", streamed(then=end))
    reflector = reflect()
    assert reflector.wait_synced(10)
    put(server, "a")
    assert diary.has("new a")
    assert (reflector.lists, len(server.asked("watch"))) == (1, 2)


def test_a_collection_at_rest_is_no_trouble(server: Server, reflect: Start, caplog: pytest.LogCaptureFixture) -> None:
    server.next("watch", *[streamed(then=silent)] * 3)
    reflector = reflect()
    until(lambda: len(server.asked("watch")) == 4, 10, "a fourth watch", every=0.01)
    assert (reflector.trouble, reflector.lists, caplog.messages) == ("", 1, [])


def test_a_server_that_stopped_answering_is_trouble(server: Server, api: Api, diary: Diary) -> None:
    server.next("watch", *[silent] * 1000)
    reflector = Reflector(api, VOLUMES, diary, pace=FAST)
    reflector.start()
    until(lambda: reflector.trouble, 10, "it says so", every=0.01)
    server.released.set()
    assert reflector.stop()


def test_a_watch_goes_on_from_the_last_version_seen(server: Server, reflect: Start, diary: Diary) -> None:
    put(server, "a")
    seen = server.kept.objects["persistentvolumes", "", "a"]
    server.next("watch", streamed(("MODIFIED", {**seen, "metadata": {**seen["metadata"], "resourceVersion": "777"}})))
    reflect()
    assert diary.has("new a", "changed a")
    until(lambda: len(server.asked("watch")) > 1, 10, "a second watch", every=0.01)
    assert server.asked("watch")[1].params["resourceVersion"] == "777"


def test_a_bookmark_moves_the_version_and_tells_nothing(server: Server, reflect: Start, diary: Diary) -> None:
    server.next("watch", streamed(("BOOKMARK", {"kind": "Thing", "metadata": {"resourceVersion": "888"}})))
    reflect()
    until(lambda: len(server.asked("watch")) > 1, 10, "a second watch", every=0.01)
    assert server.asked("watch")[1].params["resourceVersion"] == "888"
    assert diary.lines == []


def test_when_its_version_is_gone_it_lists_and_tells_what_it_missed(server: Server, reflect: Start, diary: Diary) -> None:
    for name in ("kept", "lost", "changes"):
        put(server, name)

    def things_happen(_handler: object) -> None:
        remove(server, "lost")
        put(server, "changes")
        put(server, "added")
        server.kept.forget_history()
        refused(410, "Expired")(_handler)  # type: ignore[arg-type]

    server.next("watch", things_happen)
    reflector = reflect()
    assert diary.has("new changes", "new kept", "new lost", "new added", "changed changes", "gone lost")
    assert reflector.lists == 2


def test_a_gone_version_in_the_middle_of_a_watch_is_the_same(server: Server, reflect: Start, diary: Diary) -> None:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    server.next("watch", streamed(("ERROR", status)))
    reflector = reflect()
    put(server, "a")
    assert diary.has("new a")
    until(lambda: reflector.lists == 2, 10, "a second list", every=0.01)


def test_one_deleted_and_made_again_unseen_is_gone_and_new(server: Server, reflect: Start, diary: Diary) -> None:
    put(server, "a")

    def made_again(_handler: object) -> None:
        remove(server, "a")
        put(server, "a")
        refused(410, "Expired")(_handler)  # type: ignore[arg-type]

    server.next("watch", made_again)
    reflect()
    assert diary.has("new a", "gone a", "new a")


def test_a_second_list_of_the_same_tells_nothing(server: Server, reflect: Start, diary: Diary) -> None:
    put(server, "a")
    server.next("watch", refused(410, "Expired"))
    reflector = reflect()
    until(lambda: reflector.lists == 2, 10, "a second list", every=0.01)
    put(server, "b")
    assert diary.has("new a", "new b")


@pytest.mark.parametrize(
    "trouble", [refused(500, "InternalError"), refused(403, "Forbidden"), page_of_a_proxy(200), hung_up, refused(410, "Expired")]
)
def test_a_list_that_fails_is_tried_again(server: Server, reflect: Start, trouble: Answer) -> None:
    put(server, "a")
    server.next("list", trouble, trouble, trouble)
    reflector = reflect()
    assert reflector.wait_synced(10)
    assert reflector.store.keys() == {"a"}


def test_a_refused_watch_has_it_list_again(server: Server, reflect: Start) -> None:
    server.next("watch", refused(504, "Timeout"))
    reflector = reflect()
    until(lambda: reflector.lists == 2, 10, "a second list", every=0.01)


def test_a_server_under_load_is_not_asked_for_the_list_again(server: Server, reflect: Start, diary: Diary) -> None:
    server.next("watch", refused(429, "TooManyRequests"))
    reflector = reflect()
    put(server, "a")
    assert diary.has("new a")
    assert reflector.lists == 1


def test_a_server_that_ends_every_watch_is_not_asked_without_pause(api: Api, server: Server, diary: Diary) -> None:
    server.next("watch", *[streamed()] * 1000)
    reflector = Reflector(api, VOLUMES, diary, pace=Pace(backoff=Backoff(first=0.2, most=0.2)))
    reflector.start()
    started = time.monotonic()
    until(lambda: len(server.asked("watch")) == 5, 10, "a fifth watch", every=0.01)
    assert time.monotonic() - started >= 4 * 0.2
    assert reflector.stop()


def test_a_restart_of_the_server_loses_nothing(server: Server, reflect: Start, diary: Diary) -> None:
    reflector = reflect()
    assert reflector.wait_synced(10)
    for name in "abc":
        server.drop_connections()
        put(server, name)
    assert diary.has("new a", "new b", "new c")


def test_its_trouble_can_be_told(server: Server, reflect: Start) -> None:
    server.next("list", *[refused(403, "Forbidden")] * 1000)
    reflector = reflect()
    until(lambda: "403 Forbidden" in reflector.trouble, 10, "the trouble is told", every=0.01)
    assert not reflector.synced


def test_objects_are_found_by_their_index(server: Server, reflect: Start, diary: Diary) -> None:
    put(server, "a", claim="one")
    put(server, "b", claim="two")
    reflector = reflect(indexers={"claim": lambda item: [item["spec"]["claimRef"]["uid"]]})
    assert reflector.wait_synced(10)
    assert [item["metadata"]["name"] for item in reflector.store.by_index("claim", "two")] == ["b"]
    put(server, "b", claim="one")
    assert diary.has("new a", "new b", "changed b")
    assert [item["metadata"]["name"] for item in reflector.store.by_index("claim", "one")] == ["a", "b"]
    assert reflector.store.by_index("claim", "two") == []


def test_managed_fields_are_not_kept(server: Server, reflect: Start, diary: Diary) -> None:
    put(server, "a")
    reflector = reflect()
    assert diary.has("new a")
    put(server, "b")
    assert diary.has("new a", "new b")
    assert all("managedFields" not in item["metadata"] for item in reflector.store.items())


def test_selectors_go_with_list_and_watch(server: Server, reflect: Start) -> None:
    reflector = reflect(selectors={"fieldSelector": "metadata.name=a"})
    assert reflector.wait_synced(10)
    until(lambda: bool(server.asked("watch")), 10, "a watch", every=0.01)
    assert {request.params["fieldSelector"] for request in server.requests} == {"metadata.name=a"}


def test_stopping_does_not_wait_for_news(server: Server, api: Api, diary: Diary) -> None:
    reflector = Reflector(api, VOLUMES, diary)
    reflector.start()
    until(lambda: bool(server.asked("watch")), 10, "a watch", every=0.01)
    assert reflector.stop(timeout=5)
    assert not reflector.alive
