"""Programs with deadlines, calls with patience. Two seconds, of waiting for what does not come."""

import os
import threading

import pytest

from provisioner.core.errors import Unavailable
from provisioner.host.commands import CommandFailed, Commands
from provisioner.host.patience import Patience


def test_a_program_gets_its_secret_on_stdin_and_tells_its_stdout() -> None:
    assert Commands().run("x", ["cat"], 5, stdin=b"secret") == "secret"


def test_a_program_inherits_the_descriptors_that_it_is_given() -> None:
    read, write = os.pipe()
    os.write(write, b"key")
    os.close(write)
    assert Commands().run("x", ["cat", f"/proc/self/fd/{read}"], 5, fds=[read]) == "key"
    os.close(read)


def test_a_bad_end_tells_code_and_last_words() -> None:
    with pytest.raises(CommandFailed, match="no such luck") as caught:
        Commands().run("x", ["sh", "-c", "echo no such luck >&2; exit 3"], 5)
    assert caught.value.code == 3


def test_a_program_that_there_is_not_is_a_bad_end_too() -> None:
    with pytest.raises(CommandFailed) as caught:
        Commands().run("x", ["no-such-program"], 5)
    assert caught.value.code == 127


def test_a_program_that_does_not_end_is_killed() -> None:
    commands = Commands()
    with pytest.raises(Unavailable, match="did not come to an end"):
        commands.run("x", ["sleep", "60"], 0.2)
    assert commands.hanging() == 0


def test_a_call_that_hangs_is_joined_by_the_next_and_not_repeated() -> None:
    patience, gate, calls = Patience(), threading.Event(), []

    def work() -> str:
        calls.append(1)
        gate.wait(10)
        return "done"

    for _ in range(2):
        with pytest.raises(Unavailable):
            patience.call("x", 0.05, work)
    gate.set()
    assert patience.call("y", 5, lambda: "other") == "other"
    assert calls == [1]


def test_a_call_gives_what_its_work_gives_or_raises() -> None:
    patience = Patience()
    assert patience.call("x", 5, lambda: 7) == 7
    with pytest.raises(FileNotFoundError):
        patience.call("x", 5, lambda: os.stat("/no/such/file"))
