"""The transport: each call is one answer or one named error, within its time."""

import threading
import time
from pathlib import Path

import pytest
import trustme

from provisioner.kube import errors
from provisioner.kube.kubeconfig import Access
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, Object
from provisioner.kube.transport import Api, Limits
from tests.unit.kube.troubled_apiserver import (
    Server,
    cut_in_an_event,
    cut_off,
    ended_in_an_event,
    hung_up,
    nonsense,
    page_of_a_proxy,
    refused,
    silent,
    streamed,
)

VOLUMES = PERSISTENT_VOLUMES.path()
CLAIMS = PERSISTENT_VOLUME_CLAIMS.path("default")


def volume(name: str) -> Object:
    return PERSISTENT_VOLUMES.body({"name": name}, spec={"capacity": {"storage": "1Gi"}})


def fill(server: Server, count: int) -> None:
    for index in range(count):
        server.kept.write(("persistentvolumes", "", f"pv-{index:04}"), volume(f"pv-{index:04}"))


class TestCalls:
    def test_an_object_created_can_be_read(self, api: Api) -> None:
        api.create(VOLUMES, volume("pv-1"))
        assert api.get(f"{VOLUMES}/pv-1")["spec"] == {"capacity": {"storage": "1Gi"}}

    def test_one_connection_serves_call_after_call(self, api: Api, server: Server) -> None:
        for index in range(10):
            api.create(VOLUMES, volume(f"pv-{index}"))
        assert len(server._open) == 1

    def test_the_server_is_told_who_asks(self, api: Api, server: Server) -> None:
        api.get("/api/v1/nodes")
        assert server.requests[0].headers["User-Agent"] == "test/1"

    @pytest.mark.parametrize(
        ("kind", "content"),
        [
            ("merge", "application/merge-patch+json"),
            ("json", "application/json-patch+json"),
            ("strategic", "application/strategic-merge-patch+json"),
        ],
    )
    def test_a_patch_says_which_kind_it_is(self, api: Api, server: Server, kind: str, content: str) -> None:
        api.create(VOLUMES, volume("pv-1"))
        api.patch(f"{VOLUMES}/pv-1", {"status": {}}, kind)  # type: ignore[arg-type]
        assert server.asked("patch")[0].headers["Content-Type"] == content

    def test_delete_sends_its_options(self, api: Api, server: Server) -> None:
        api.create(VOLUMES, volume("pv-1"))
        api.delete(f"{VOLUMES}/pv-1", {"preconditions": {"uid": "u"}})
        assert server.asked("delete")[0].body == {"preconditions": {"uid": "u"}}

    def test_a_url_with_a_path_is_a_prefix(self, server: Server) -> None:
        api = Api(Access(server=f"{server.url}/api/v1", ca=server.ca), "test/1")
        api.get("/nodes")
        assert server.requests[0].path == "/api/v1/nodes"

    def test_each_exchange_is_reported(self, access: Access, server: Server) -> None:
        calls: list[tuple[str, str, str]] = []
        api = Api(access, "test/1", on_call=lambda verb, resource, status, _seconds: calls.append((verb, resource, status)))
        api.create(CLAIMS, PERSISTENT_VOLUME_CLAIMS.body({"name": "c", "namespace": "default"}))
        api.patch(f"{CLAIMS}/c/status", {})
        server.next("get", hung_up)
        with pytest.raises(errors.Unreachable):
            api.get(f"{VOLUMES}/pv-1")
        assert calls == [
            ("create", "persistentvolumeclaims", "201"),
            ("patch", "persistentvolumeclaims/status", "200"),
            ("get", "persistentvolumes", "unreachable"),
        ]

    def test_calls_beyond_the_burst_are_slowed_to_the_rate(self, access: Access) -> None:
        api = Api(access, "test/1", Limits(rate=20, burst=1))
        started = time.monotonic()
        for _ in range(5):
            api.get("/api/v1/nodes")
        assert 0.2 <= time.monotonic() - started < 5


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "reason", "error"),
        [
            (401, "Unauthorized", errors.Unauthorized),
            (403, "Forbidden", errors.Forbidden),
            (404, "NotFound", errors.NotFound),
            (409, "Conflict", errors.Conflict),
            (409, "AlreadyExists", errors.AlreadyExists),
            (410, "Expired", errors.Gone),
            (422, "Invalid", errors.Invalid),
            (429, "TooManyRequests", errors.TooManyRequests),
            (500, "InternalError", errors.ServerFailed),
            (504, "Timeout", errors.ServerFailed),
            (415, "UnsupportedMediaType", errors.ApiError),
        ],
    )
    def test_a_refusal_is_its_own_error(
        self, api: Api, server: Server, status: int, reason: str, error: type[errors.ApiError]
    ) -> None:
        server.next("get", refused(status, reason), refused(status, reason))
        with pytest.raises(error) as caught:
            api.get(f"{VOLUMES}/pv-1")
        assert (type(caught.value), caught.value.status, caught.value.reason) == (error, status, reason)

    def test_a_taken_name_is_also_a_conflict(self, api: Api) -> None:
        api.create(VOLUMES, volume("pv-1"))
        with pytest.raises(errors.Conflict, match="already exists"):
            api.create(VOLUMES, volume("pv-1"))

    def test_a_proxys_page_is_quoted(self, api: Api, server: Server) -> None:
        server.next("get", page_of_a_proxy(502))
        with pytest.raises(errors.ServerFailed, match="come back later"):
            api.get(f"{VOLUMES}/pv-1")

    def test_causes_are_told_apart(self) -> None:
        body = b'{"kind":"Status","code":403,"reason":"Forbidden","details":{"causes":[{"reason":"NamespaceTerminating"}]}}'
        assert [cause.reason for cause in errors.from_answer(403, body).causes] == ["NamespaceTerminating"]

    def test_only_what_may_pass_is_called_passing(self) -> None:
        passing = {status for status in range(400, 600) if errors.is_passing(errors.from_answer(status, b""))}
        assert passing == {429, *range(500, 600)}


class TestRetryAfter:
    def test_a_server_that_asks_for_time_gets_it(self, api: Api, server: Server) -> None:
        server.next("create", refused(429, "TooManyRequests", Retry_After="1"))
        started = time.monotonic()
        api.create(VOLUMES, volume("pv-1"))
        assert 1 <= time.monotonic() - started < 4

    def test_patience_has_an_end(self, access: Access, server: Server) -> None:
        api = Api(access, "test/1", Limits(patience=2.5))
        server.next("create", *[refused(429, "TooManyRequests", Retry_After="1")] * 9)
        with pytest.raises(errors.TooManyRequests):
            api.create(VOLUMES, volume("pv-1"))
        assert len(server.asked("create")) == 3

    def test_a_wait_longer_than_the_callers_time_is_not_begun(self, api: Api, server: Server) -> None:
        server.next("get", refused(503, "ServiceUnavailable", Retry_After="60"))
        started = time.monotonic()
        with pytest.raises(errors.ServerFailed):
            api.get(f"{VOLUMES}/pv-1", timeout=1)
        assert time.monotonic() - started < 5

    def test_a_refusal_without_it_is_not_repeated(self, api: Api, server: Server) -> None:
        server.next("create", refused(500, "InternalError"))
        with pytest.raises(errors.ServerFailed):
            api.create(VOLUMES, volume("pv-1"))
        assert len(server.asked("create")) == 1

    def test_closing_ends_the_wait(self, api: Api, server: Server) -> None:
        server.next("get", refused(429, "TooManyRequests", Retry_After="9"))
        threading.Timer(0.2, api.close).start()
        started = time.monotonic()
        with pytest.raises(errors.TooManyRequests):
            api.get(f"{VOLUMES}/pv-1")
        assert time.monotonic() - started < 4


class TestNoAnswer:
    @pytest.mark.parametrize("trouble", [hung_up, cut_off, page_of_a_proxy(200)])
    def test_an_answer_that_is_not_whole_means_unreachable(self, api: Api, server: Server, trouble: object) -> None:
        server.next("get", trouble)  # type: ignore[arg-type]
        with pytest.raises(errors.Unreachable, match="get /api/v1/persistentvolumes/pv-1"):
            api.get(f"{VOLUMES}/pv-1")

    def test_silence_ends_at_the_timeout(self, api: Api, server: Server) -> None:
        server.next("create", silent)
        started = time.monotonic()
        with pytest.raises(errors.Unreachable):
            api.create(VOLUMES, volume("pv-1"), timeout=0.3)
        assert 0.3 <= time.monotonic() - started < 5

    def test_nobody_there(self, server: Server) -> None:
        api = Api(Access(server="https://127.0.0.1:1", ca=server.ca), "test/1")
        with pytest.raises(errors.Unreachable, match="refused"):
            api.get("/api/v1/nodes")

    def test_the_next_call_after_a_restart_of_the_server_succeeds(self, api: Api, server: Server) -> None:
        api.create(VOLUMES, volume("pv-1"))
        server.drop_connections()
        assert api.get(f"{VOLUMES}/pv-1")["kind"] == "PersistentVolume"

    def test_a_server_with_a_foreign_certificate_is_not_spoken_to(self, server: Server) -> None:
        api = Api(Access(server=server.url, ca=trustme.CA().cert_pem.bytes(), token="secret"), "test/1")
        with pytest.raises(errors.Unreachable, match="certificate verify failed"):
            api.get("/api/v1/nodes")
        assert server.requests == []

    def test_after_close_there_are_no_calls(self, api: Api) -> None:
        api.close()
        with pytest.raises(errors.Unreachable):
            api.get("/api/v1/nodes")


class TestLists:
    def test_pages_make_a_whole(self, api: Api, server: Server) -> None:
        fill(server, 25)
        listing = api.list_all(VOLUMES, limit=10)
        assert [item["metadata"]["name"] for item in listing.items] == [f"pv-{index:04}" for index in range(25)]
        assert len(server.asked("list")) == 3

    def test_items_know_their_kind(self, api: Api, server: Server) -> None:
        fill(server, 1)
        assert api.list_all(VOLUMES).items[0]["kind"] == "Thing"

    def test_a_version_forgotten_between_pages_has_all_read_at_once(self, api: Api, server: Server) -> None:
        fill(server, 25)
        pages = api.list_pages(VOLUMES, limit=10)
        next(pages)
        server.next("list", refused(410, "Expired"))
        with pytest.raises(errors.Gone):
            next(pages)
        server.requests.clear()
        server.next("list", refused(410, "Expired"))
        assert len(api.list_all(VOLUMES, limit=10).items) == 25
        assert "limit" not in server.asked("list")[-1].params

    def test_selectors_are_sent_with_every_page(self, api: Api, server: Server) -> None:
        fill(server, 3)
        api.list_all(VOLUMES, {"labelSelector": "a=b"}, limit=1)
        assert [request.params["labelSelector"] for request in server.asked("list")] == ["a=b"] * 3

    def test_trimming_happens_page_by_page(self, api: Api, server: Server) -> None:
        fill(server, 3)
        listing = api.list_all(VOLUMES, limit=1, trim=lambda item: {"metadata": item["metadata"]})
        assert [list(item) for item in listing.items] == [["metadata"]] * 3


class TestWatches:
    def test_changes_arrive_in_order(self, api: Api, server: Server) -> None:
        watch = iter(api.watch(VOLUMES, "100"))
        fill(server, 2)
        server.kept.remove(("persistentvolumes", "", "pv-0000"))
        seen = [next(watch) for _ in range(3)]
        assert [(kind, item["metadata"]["name"]) for kind, item in seen] == [
            ("ADDED", "pv-0000"),
            ("ADDED", "pv-0001"),
            ("DELETED", "pv-0000"),
        ]

    def test_bookmarks_are_asked_for(self, api: Api, server: Server) -> None:
        server.next("watch", streamed())
        assert list(api.watch(VOLUMES, "100", seconds=60)) == []
        asked = server.asked("watch")[0].params
        assert (asked["allowWatchBookmarks"], asked["timeoutSeconds"]) == ("true", "60")

    def test_a_version_no_longer_kept_is_gone(self, api: Api, server: Server) -> None:
        fill(server, 1)
        server.kept.forget_history()
        with pytest.raises(errors.Gone):
            list(api.watch(VOLUMES, "100"))

    @pytest.mark.parametrize("end", [cut_in_an_event, ended_in_an_event, nonsense, hung_up])
    def test_an_end_that_is_none_is_noticed_after_the_events_before_it(self, api: Api, server: Server, end: object) -> None:
        server.next("watch", streamed(("ADDED", volume("pv-1")), then=end))  # type: ignore[arg-type]
        seen: list[object] = []
        with pytest.raises(errors.Unreachable):
            seen.extend(api.watch(VOLUMES, "100"))
        assert seen == [("ADDED", volume("pv-1"))]

    def test_silence_is_noticed(self, api: Api, server: Server) -> None:
        server.next("watch", streamed(("ADDED", volume("pv-1")), then=silent))
        started = time.monotonic()
        with pytest.raises(errors.Silent):
            list(api.watch(VOLUMES, "100", silence=0.3))
        assert time.monotonic() - started < 5

    def test_an_event_in_many_pieces_is_one_event(self, api: Api, server: Server) -> None:
        def in_pieces(handler: object) -> None:
            line = b'{"type": "ADDED", "object": {"metadata": {"name": "a"}}}\n{"type": "DELETED", "object": {"metadata": {}}}\n'
            for index in range(0, len(line), 7):
                handler.chunk(line[index : index + 7])  # type: ignore[attr-defined]
            handler.wfile.write(b"0\r\n\r\n")  # type: ignore[attr-defined]

        server.next("watch", streamed(then=in_pieces))
        assert [kind for kind, _ in api.watch(VOLUMES, "100")] == ["ADDED", "DELETED"]

    def test_closing_ends_a_watch_that_waits(self, api: Api) -> None:
        watch = api.watch(VOLUMES, "100")
        threading.Timer(0.2, watch.close).start()
        started = time.monotonic()
        assert list(watch) == []
        assert time.monotonic() - started < 5

    def test_a_refused_watch_is_an_error_at_once(self, api: Api, server: Server) -> None:
        server.next("watch", refused(403, "Forbidden"))
        with pytest.raises(errors.Forbidden):
            api.watch(VOLUMES, "100")


class TestPaths:
    def test_a_namespaced_object(self) -> None:
        assert PERSISTENT_VOLUME_CLAIMS.path("ns", "c", "status") == "/api/v1/namespaces/ns/persistentvolumeclaims/c/status"

    def test_all_namespaces(self) -> None:
        assert PERSISTENT_VOLUME_CLAIMS.path() == "/api/v1/persistentvolumeclaims"

    def test_an_object_without_its_namespace_is_refused(self) -> None:
        with pytest.raises(ValueError, match="which namespace"):
            PERSISTENT_VOLUME_CLAIMS.path(name="c")

    def test_a_namespace_for_what_has_none_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no namespace"):
            PERSISTENT_VOLUMES.path("ns")

    def test_a_name_can_not_leave_its_place(self) -> None:
        assert PERSISTENT_VOLUMES.path(name="../secrets") == "/api/v1/persistentvolumes/..%2Fsecrets"


def test_no_secret_in_a_representation(tmp_path: Path) -> None:
    access = Access(server="https://127.0.0.1:1", token="hush", key=b"hush", basic=("u", "hush"), token_file=tmp_path / "hush")
    assert "hush" not in repr(access)
