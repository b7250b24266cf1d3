"""The doors to the Cinders of this process: one session per cloud, shared by all threads, bounded in every call.

Authentication is the SDK's: clouds.yaml, OS_* variables, Keystone tokens and their renewal. The calls themselves are plain REST
on its session: a volume costs some ten of them, and the SDK's resource objects would cost more than everything else together.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keystoneauth1.adapter
import keystoneauth1.exceptions
import keystoneauth1.session
import openstack.config
import openstack.exceptions
import requests

import provisioner
from provisioner.cinder.cloud import CloudConfig
from provisioner.cinder.errors import answered, unanswered
from provisioner.cinder.waiting import UnderWay
from provisioner.core.errors import InvalidRequest

_CONNECTIONS = 64
"""Pooled per cloud: workers of all front ends together."""
MICROVERSION = "3.42"
"""Growing a volume that is attached came with it; everything else is older."""
_ERRORS = (keystoneauth1.exceptions.ClientException, openstack.exceptions.SDKException, requests.RequestException)


class Api:
    """One Cinder."""

    def __init__(self, config: CloudConfig) -> None:
        """Nothing is asked yet. Raises InvalidRequest for a cloud that isn't configured."""
        self.config = config
        self._adapter = _adapter(config)
        self._under_way = {status: UnderWay(partial(self._uuids, status)) for status in ("creating", "deleting")}

    def is_under_way(self, uuid: str, status: str, since: float) -> bool:
        """Tell whether the volume was `creating` or `deleting` at some moment after `since` (monotonic)."""
        return self._under_way[status].has(uuid, since)

    def get(self, path: str, doing: str, **query: Any) -> Any:
        """Read. Raises the core's errors."""
        return self._call("GET", path, doing, params=query)

    def post(self, path: str, doing: str, body: Mapping[str, Any]) -> Any:
        """Make."""
        return self._call("POST", path, doing, json=body)

    def act(self, volume: str, action: str, doing: str, body: Mapping[str, Any] | None = None) -> Any:
        """Do an action on the volume of this uuid."""
        return self._call("POST", f"/volumes/{volume}/action", doing, json={action: body or {}})

    def delete(self, path: str, doing: str) -> None:
        """Have it removed."""
        self._call("DELETE", path, doing)

    def _uuids(self, status: str) -> frozenset[str]:
        listed = self.get("/volumes", f"listing volumes that are {status}", status=status)["volumes"]
        return frozenset(str(volume["id"]) for volume in listed)

    def _call(self, method: str, path: str, doing: str, **options: Any) -> Any:
        try:
            # not logged by the session: answers hold passwords of targets
            answer = self._adapter.request(path, method, raise_exc=False, log=False, microversion=MICROVERSION, **options)
        except _ERRORS as error:
            raise unanswered(doing, error) from error
        if answer.status_code >= 400:
            raise answered(doing, answer)
        return answer.json() if answer.content else None


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


def _adapter(config: CloudConfig) -> keystoneauth1.adapter.Adapter:
    try:
        session, interface, region, override = _session(config)
    except openstack.exceptions.SDKException as error:
        raise InvalidRequest(f"clouds.{config.name}", config.cloud, str(error)) from error
    return keystoneauth1.adapter.Adapter(
        session=session,
        service_type="block-storage",
        interface=interface,
        region_name=region,
        endpoint_override=override,
        connect_retries=0,
        status_code_retries=0,
    )


def _session(config: CloudConfig) -> tuple[keystoneauth1.session.Session, str, str | None, str | None]:
    standalone = {
        "auth_type": "admin_token",
        "auth": {"endpoint": config.endpoint, "token": f"{config.user}:{config.project}"},
        "block_storage_endpoint_override": config.endpoint,
    }
    reader = openstack.config.OpenStackConfig(
        load_yaml_config=not config.endpoint,
        load_envvars=not config.endpoint,
        app_name="ceph-provisioner",
        app_version=provisioner.__version__,
        config_files=[config.file] if config.file else None,
    )
    named = {"cloud": config.cloud} if config.cloud else {}
    placed = {"region_name": config.region} if config.region else {}
    wanted = standalone if config.endpoint else {**named, **placed}
    region = reader.get_one(api_timeout=config.timeout, **wanted)
    session = region.get_session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, keystoneauth1.session.TCPKeepAliveAdapter(pool_maxsize=_CONNECTIONS))
    interface = region.get_interface("block-storage")
    return (
        session,
        interface if isinstance(interface, str) else "public",
        region.get_region_name("block-storage"),
        region.get_endpoint("block-storage"),
    )
