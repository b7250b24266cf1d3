"""The doors to the Cinders of this process: one session per cloud, shared by all threads, bounded in every call.

Authentication is the SDK's: clouds.yaml, OS_* variables, Keystone tokens and their renewal. The calls themselves are plain REST:
a volume costs some ten of them, and the SDK's resource objects would cost more than everything else together.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from provisioner.cinder.cloud import CloudConfig
from provisioner.cinder.errors import NO_ANSWER, Unanswered, answered, unanswered
from provisioner.cinder.transport import Transport
from provisioner.cinder.waiting import UnderWay
from provisioner.core.errors import InvalidRequest


class Api:
    """One Cinder."""

    def __init__(self, config: CloudConfig) -> None:
        """Nothing is asked yet. Raises InvalidRequest for a cloud that isn't configured."""
        self.config = config
        self._transport = Transport(config)
        self._under_way = {status: UnderWay(partial(self._uuids, status)) for status in ("creating", "deleting")}

    def is_under_way(self, uuid: str, status: str, since: float) -> bool:
        """Tell whether the volume was `creating` or `deleting` at some moment after `since` (monotonic)."""
        return self._under_way[status].has(uuid, since)

    def get(self, path: str, doing: str, **query: Any) -> Any:
        """Read. Raises the core's errors."""
        return self._call("GET", path, doing, query=query)

    def post(self, path: str, doing: str, body: Mapping[str, Any]) -> Any:
        """Make."""
        return self._call("POST", path, doing, body=body)

    def act(self, volume: str, action: str, doing: str, body: Mapping[str, Any] | None = None) -> Any:
        """Do an action on the volume of this uuid."""
        return self._call("POST", f"/volumes/{volume}/action", doing, body={action: body or {}})

    def delete(self, path: str, doing: str) -> None:
        """Have it removed."""
        self._call("DELETE", path, doing)

    def _uuids(self, status: str) -> frozenset[str]:
        listed = self.get("/volumes", f"listing volumes that are {status}", status=status)["volumes"]
        return frozenset(str(volume["id"]) for volume in listed)

    def _call(self, method: str, path: str, doing: str, query: Mapping[str, Any] | None = None, body: object = None) -> Any:
        try:
            answer = self._transport.exchange(method, path, query or {}, body)
        except NO_ANSWER as error:
            raise unanswered(doing, error) from error
        if answer.status >= 300:
            raise answered(doing, answer.status, answer.content)
        try:
            return msgspec.json.decode(answer.content) if answer.content else None
        except msgspec.DecodeError as error:
            raise Unanswered(f"Cinder's answer is no JSON: {doing}: {error}") from error


class Clouds:
    """The sessions of this process, by cloud; made anew when the configuration changes."""

    def __init__(self, configured: Callable[[], Mapping[str, CloudConfig]]) -> None:
        """`configured` gives today's clouds; it is asked at every use, so it should be quick."""
        self._configured = configured
        self._open: dict[str, tuple[tuple[object, ...], Api]] = {}
        self._lock = threading.Lock()

    def api(self, name: str) -> Api:
        """The Cinder of that cloud. Raises InvalidRequest."""
        clouds = self._configured()
        if name not in clouds:
            raise InvalidRequest("cloud", name, f"known clouds: {', '.join(sorted(clouds)) or 'none'}")
        config = clouds[name]
        stamp = config.stamp()
        with self._lock:
            known = self._open.get(name)
            if known is None or known[0] != stamp:
                known = self._open[name] = (stamp, Api(config))
            return known[1]
