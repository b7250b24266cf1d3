"""Whether Ceph answers, for callers that can't wait until it does."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from provisioner.core.errors import ProvisionerError, Unavailable

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Question:
    done: threading.Event = field(default_factory=threading.Event)
    answered: bool = False
    refused: bool = False
    ended: float = 0.0


class Pulse:
    """Asks each cluster one question at a time, in a thread of its own, and keeps the answer for a moment."""

    def __init__(
        self, clusters: Callable[[], Collection[str]], ask: Callable[[str], None], patience: float = 0.7, fresh: float = 2.0
    ) -> None:
        """`ask` returns if the cluster answers and raises an error of the core if not; seconds otherwise."""
        self._clusters, self._ask = clusters, ask
        self._patience, self._fresh = patience, fresh
        self._questions: dict[str, _Question] = {}
        self._lock = threading.Lock()

    def beats(self) -> bool:
        """Tell, within `patience` seconds, whether a cluster answers: one of several is enough to work."""
        return any(self._answers().values())

    def answers(self, cluster: str) -> bool:
        """Tell, within `patience` seconds, whether this cluster answers: a refusal is an answer, too."""
        question = self._question(cluster)
        return _answered_by(question, time.monotonic() + self._patience) or question.refused

    def silent(self) -> list[str]:
        """Tell, within `patience` seconds, which clusters do not answer."""
        return [cluster for cluster, answers in self._answers().items() if not answers]

    def _answers(self) -> dict[str, bool]:
        deadline = time.monotonic() + self._patience
        questions = {cluster: self._question(cluster) for cluster in self._clusters()}
        return {cluster: _answered_by(question, deadline) for cluster, question in questions.items()}

    def _question(self, cluster: str) -> _Question:
        with self._lock:
            last = self._questions.get(cluster)
            if last is not None and not (last.done.is_set() and time.monotonic() - last.ended > self._fresh):
                return last
            question = self._questions[cluster] = _Question()
        threading.Thread(target=self._put, args=(cluster, question), name=f"pulse-{cluster}", daemon=True).start()
        return question

    def _put(self, cluster: str, question: _Question) -> None:
        try:
            self._ask(cluster)
            question.answered = True
        except ProvisionerError as error:
            question.refused = not isinstance(error, Unavailable)
            log.warning("cluster %s does not answer: %s", cluster, error)
        finally:
            question.ended = time.monotonic()
            question.done.set()


def _answered_by(question: _Question, deadline: float) -> bool:
    return question.done.wait(max(deadline - time.monotonic(), 0)) and question.answered
