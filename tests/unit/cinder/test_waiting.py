"""Waiting for Cinder: one look serves all who wait, and nobody is told of the time before he asked."""

import threading
import time

import pytest

from provisioner.cinder.waiting import UnderWay, until
from provisioner.core.errors import Unavailable


def test_many_who_wait_share_a_look() -> None:
    looks: list[int] = []

    def read() -> set[str]:
        looks.append(1)
        return {"a"}

    under_way, since = UnderWay(read), time.monotonic()
    threads = [threading.Thread(target=under_way.has, args=("a", since)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looks) == 1


def test_a_look_from_before_the_question_does_not_answer_it() -> None:
    seen: list[set[str]] = [set(), {"a"}]
    under_way = UnderWay(lambda: seen.pop(0))
    assert not under_way.has("a", time.monotonic())
    assert under_way.has("a", time.monotonic()), "made since then, and so looked for anew"


def test_patience_ends() -> None:
    with pytest.raises(Unavailable, match="making x: not done after 0 s"):
        until(lambda: None, 0.01, "making x")
