"""Connections: refused, cut off, retired under use, made anew when a file changes. Takes about 25 s."""

import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner.ceph.cluster import ClusterConfig
from provisioner.core.errors import Denied, InvalidRequest, NotFound, ProvisionerError, Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Blueprint, CreateRequest, Credentials, SizeRange
from provisioner.core.volumes import plan_for
from tests.harness.ceph import Ceph
from tests.harness.store import Provisioner, at, processes
from tests.harness.waiting import until

WRONG_KEY = "AQCrW1djAAAAABAAMmmVx5J6xpSyWpJCGVYwgQ=="


@dataclass(frozen=True)
class Account:
    """A cephx user of the test's own, and a keyring that it can be written to."""

    name: str
    key: str
    keyring: Path

    def write(self, key: str) -> None:
        fresh = self.keyring.with_suffix(".new")
        fresh.write_text(f"[client.{self.name}]\n\tkey = {key}\n")
        os.replace(fresh, self.keyring)


def _account(ceph: Ceph, tmp_path: Path, osd: str) -> Account:
    name = f"u{uuid.uuid4().hex[:8]}"
    (made,) = ceph.command("auth get-or-create", entity=f"client.{name}", caps=["mon", "profile rbd", "osd", osd])  # type: ignore[misc]
    account = Account(name, made["key"], tmp_path / "keyring")
    account.write(account.key)
    return account


@pytest.fixture
def account(ceph: Ceph, tmp_path: Path) -> Iterator[Account]:
    made = _account(ceph, tmp_path, f"profile rbd pool={ceph.pool}")
    yield made
    ceph.command("auth rm", entity=f"client.{made.name}")


@pytest.fixture
def by_keyring(ceph: Ceph, account: Account) -> Iterator[Provisioner]:
    """A process of ours whose keyring the test may change."""
    process = Provisioner(ClusterConfig("dev", conf=ceph.conf, user=account.name, keyring=str(account.keyring)))
    yield process
    process.close()


# --- keys ---


@pytest.mark.parametrize(
    ("user", "key", "told"),
    [
        ("provisioner", WRONG_KEY, "client.provisioner"),
        ("nobody", WRONG_KEY, "client.nobody"),
        ("provisioner", "not base64!", "malformed"),
        ("provisioner", "AAAA", "malformed"),
    ],
)
def test_a_key_that_ceph_refuses_is_denied_by_user_and_never_told(
    ours: Provisioner, place: Place, user: str, key: str, told: str
) -> None:
    with pytest.raises(Denied, match=told) as refused:
        ours.create(place, "pvc-1", credentials=Credentials(user, key))
    assert key not in str(refused.value)


def test_a_request_without_a_key_does_not_get_the_host_s_own(ours: Provisioner, place: Place) -> None:
    with pytest.raises(InvalidRequest, match="userKey"):
        ours.create(place, "pvc-1", credentials=Credentials("provisioner", ""))


def test_the_request_s_credentials_win(ceph: Ceph, ours: Provisioner, place: Place, account: Account) -> None:
    credentials = Credentials(account.name, account.key)
    made = ours.create(place, "pvc-1", credentials=credentials)
    assert ours.volumes.get(made.id, credentials) == ours.volumes.get(made.id) == made
    ceph.command("auth caps", entity=f"client.{account.name}", caps=["mon", "profile rbd", "osd", "profile rbd pool=elsewhere"])
    fresh = ours.retuned()
    try:
        with pytest.raises(Denied):
            fresh.volumes.get(made.id, credentials)
    finally:
        fresh.close()


def test_a_key_that_was_changed_in_ceph_closes_the_connection_with_the_old_one(
    ceph: Ceph, ours: Provisioner, place: Place, account: Account
) -> None:
    old = Credentials(account.name, account.key)
    ours.create(place, "pvc-1", credentials=old)
    ceph.command("auth rm", entity=f"client.{account.name}")
    caps = ["mon", "profile rbd", "osd", f"profile rbd pool={ceph.pool}"]
    (made,) = ceph.command("auth get-or-create", entity=f"client.{account.name}", caps=caps)  # type: ignore[misc]
    ours.create(place, "pvc-1", credentials=Credentials(account.name, made["key"]))
    with pytest.raises(Denied):
        ours.create(place, "pvc-2", credentials=old)
    done = dict(ours.store.purge(lambda: True))
    assert done
    assert not [error for _, error in ours.store.purge(lambda: True) if isinstance(error, ProvisionerError)]


@pytest.mark.parametrize(
    ("osd", "told"),
    [("allow r", "Ceph denies"), ("profile rbd-read-only", "Ceph denies"), ("profile rbd pool=elsewhere", "Ceph denies")],
)
def test_a_user_that_lacks_rights_is_denied(ceph: Ceph, tmp_path: Path, place: Place, osd: str, told: str) -> None:
    account = _account(ceph, tmp_path, osd)
    process = Provisioner(ClusterConfig("dev", conf=ceph.conf, user=account.name, keyring=str(account.keyring)))
    try:
        with pytest.raises(Denied, match=told):
            process.create(place, "pvc-1")
        assert ceph.images(place.pool, place.namespace) == []
    finally:
        process.close()
        ceph.command("auth rm", entity=f"client.{account.name}")


# --- files ---


def test_a_keyring_that_changed_is_read_again_and_the_connection_made_anew(
    ceph: Ceph, by_keyring: Provisioner, account: Account, place: Place
) -> None:
    made = by_keyring.create(place, "pvc-1")
    before = by_keyring.client()
    assert by_keyring.client() == before
    account.write(account.key)
    assert by_keyring.client() != before
    assert by_keyring.volumes.get(made.id) == made


def test_a_keyring_that_turns_bad_is_told_and_one_that_is_good_again_is_taken(
    by_keyring: Provisioner, account: Account, place: Place
) -> None:
    made = by_keyring.create(place, "pvc-1")
    account.write(WRONG_KEY)
    with pytest.raises(Denied):
        by_keyring.volumes.get(made.id)
    account.keyring.write_text("[client")
    with pytest.raises(Unavailable, match=str(account.keyring)):
        by_keyring.volumes.get(made.id)
    account.write(account.key)
    assert by_keyring.volumes.get(made.id) == made


@pytest.mark.parametrize("config", [{"conf": "/nonexistent/ceph.conf"}, {"keyring": "/nonexistent/keyring"}])
def test_a_file_that_is_not_there_is_told_by_name(ceph: Ceph, place: Place, config: dict[str, str]) -> None:
    given = {"conf": ceph.conf, "user": ceph.user, "keyring": ceph.keyring, **config}
    process = Provisioner(ClusterConfig("dev", **given))  # type: ignore[arg-type]
    try:
        with pytest.raises(Unavailable, match="/nonexistent/"):
            process.volumes.get(VolumeId(place, "pvc-1"))
    finally:
        process.close()


def test_a_cluster_nobody_answers_for_is_unavailable_in_time(place: Place, ceph: Ceph) -> None:
    config = ClusterConfig("dev", monitors=("127.0.0.1:1",), user=ceph.user, keyring=ceph.keyring, timeout=2)
    process = Provisioner(config)
    try:
        began = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            errors = list(threads.map(lambda _: _error_of(process, place), range(8)))
        assert all(isinstance(error, Unavailable) for error in errors)
        assert time.monotonic() - began < 6
    finally:
        process.close()


def _error_of(process: Provisioner, place: Place, volume: VolumeId | None = None) -> ProvisionerError | None:
    try:
        process.volumes.get(volume or VolumeId(place, "pvc-1"))
    except NotFound:
        return None
    except ProvisionerError as error:
        return error
    return None


# --- cut off ---


def test_a_blocklisted_process_loses_one_call_is_told_why_and_goes_on(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    before = ours.client()
    ceph.command("osd blocklist", blocklistop="add", addr=ours.address())
    errors = [error for _ in range(50) if (error := _error_of(ours, place, made.id))]
    assert [str(error).split(": ")[-1] for error in errors] == ["this client was cut off by Ceph (blocklisted); it connects anew"]
    assert ours.client() != before
    assert ours.create(place, "pvc-2").size == made.size
    with at(ceph, place) as pool:
        assert ours.client() in processes(pool)


def test_a_process_taken_for_dead_is_fenced_and_comes_back(ceph: Ceph, place: Place, ours: Provisioner) -> None:
    silent = Provisioner(ceph.config())
    try:
        silent.create(place, "pvc-1")
        silent.die()
        fenced = silent.client()
        with at(ceph, place) as pool:
            until(lambda: _sweep(ours, place) and fenced not in processes(pool), 60, "the silent one is taken for dead", every=1)
        until(lambda: _error_of(silent, place) is None and silent.client() != fenced, 60, "it connected anew")
        assert silent.create(place, "pvc-2")
    finally:
        silent.close()


def _sweep(process: Provisioner, place: Place) -> bool:
    process.volumes.attend(place)
    process.purge()
    return True


# --- retired under use ---


def test_connections_retired_under_use_lose_no_operation(by_keyring: Provisioner, account: Account, place: Place) -> None:
    made, stop = by_keyring.create(place, "pvc-1"), threading.Event()

    def look() -> int:
        looks = 0
        while not stop.is_set():
            assert by_keyring.volumes.get(made.id) == made
            looks += 1
        return looks

    with ThreadPoolExecutor(8) as threads:
        looking = [threads.submit(look) for _ in range(8)]
        for _ in range(20):
            account.write(account.key)
            by_keyring.client()
        stop.set()
        assert all(future.result(10) > 0 for future in looking)


def test_connections_retired_by_many_threads_at_once_are_closed_once(ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    for _ in range(10):
        with ours.clusters.connection("dev") as connection, ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: connection.retire(), range(16)))
            assert connection.retired
            assert connection.fsid()
        assert ours.volumes.get(made.id) == made


# --- pools that go away or fill up ---


def test_a_pool_that_is_deleted_under_use_is_told_by_name(ceph: Ceph, tmp_path: Path) -> None:
    pool = f"p{uuid.uuid4().hex[:8]}"
    ceph.make_pool(pool)
    account = _account(ceph, tmp_path, f"profile rbd pool={pool}")
    process = Provisioner(ClusterConfig("dev", conf=ceph.conf, user=account.name, keyring=str(account.keyring)))
    place = Place("dev", pool)
    try:
        process.create(place, "pvc-1")
        with process.clusters.connection("dev") as connection, connection.pool(place) as context:
            ceph.drop_pool(pool)
            with pytest.raises(ProvisionerError):
                process.store.make(_plan(place), None)
            assert context.get_pool_id()
        with pytest.raises(InvalidRequest, match=f"pool '{pool}'"):
            until(lambda: process.create(place, "pvc-2") and None, 60, "the pool is gone")
        list(process.store.purge(lambda: True))
        assert list(process.store.purge(lambda: True)) == []
    finally:
        process.close()
        ceph.command("auth rm", entity=f"client.{account.name}")


def _plan(place: Place) -> Blueprint:
    return plan_for(CreateRequest("pvc-late", place, SizeRange(1 << 30)))
