"""Which process of the list is surely dead: never one that lives. Takes a second."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from provisioner.ceph.registry import Process, surely_dead, this_process

MINE = this_process("127.0.0.1:0/1")


@pytest.fixture
def neighbour() -> Iterator["subprocess.Popen[bytes]"]:
    """Another process of this host."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdin:
            process.stdin.close()


def _entry(pid: int) -> Process:
    stat = open(f"/proc/{pid}/stat").read()  # noqa: SIM115
    return replace(MINE, pid=pid, started=stat.rsplit(")", 1)[1].split()[19])


def test_this_process_lives() -> None:
    assert not surely_dead(MINE, MINE)


def test_a_neighbour_lives_until_it_is_killed(neighbour: "subprocess.Popen[bytes]") -> None:
    entry = _entry(neighbour.pid)
    assert not surely_dead(entry, MINE)
    neighbour.kill()
    neighbour.wait()
    assert surely_dead(entry, MINE)


def test_a_process_id_that_was_given_again_does_not_pass_for_the_dead_one() -> None:
    assert surely_dead(replace(MINE, started="1"), MINE)


def test_nothing_is_said_of_another_host() -> None:
    assert not surely_dead(replace(MINE, identity="elsewhere/boot", pid=1, started="1"), MINE)


def test_nothing_is_said_of_another_container_on_this_host() -> None:
    assert not surely_dead(replace(MINE, pid_namespace="pid:[1]", started="1"), MINE)


def test_a_container_that_was_started_again_knows_its_predecessor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_UID", "f00")
    monkeypatch.setenv("CONTAINER", "claims")
    mine = this_process("127.0.0.1:0/1")
    assert surely_dead(replace(mine, pid_namespace="pid:[1]"), mine)


def test_two_containers_of_a_pod_leave_each_other_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_UID", "f00")
    monkeypatch.setenv("CONTAINER", "claims")
    mine = this_process("127.0.0.1:0/1")
    monkeypatch.setenv("CONTAINER", "controller")
    other = replace(this_process("127.0.0.1:0/2"), pid_namespace="pid:[1]")
    assert not surely_dead(other, mine)


def test_a_pod_without_the_container_s_name_is_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_UID", "f00")
    monkeypatch.delenv("CONTAINER", raising=False)
    assert not this_process("127.0.0.1:0/1").identity.startswith("pod/")


def test_a_living_process_whose_files_cannot_be_opened_is_not_dead(neighbour: "subprocess.Popen[bytes]") -> None:
    entry = _entry(neighbour.pid)
    with _no_file_can_be_opened():
        dead = surely_dead(entry, MINE)
    assert not dead


@contextmanager
def _no_file_can_be_opened() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
