"""HTTP to one Cinder: who we are and where it is are the SDK's to say, the exchanges go straight to the pool of connections.

On the SDK's session a call costs two to three times as much CPU as here, nearly all of it in the layers between the session and
the socket, and a claim takes some eight calls. What those layers know is asked once for each token: the endpoint in the
catalogue, the environment's proxies, the authorities to trust.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlencode

import keystoneauth1.adapter
import keystoneauth1.session
import msgspec.json
import openstack.config
import openstack.exceptions
import requests
import requests.adapters
import urllib3

import provisioner
from provisioner.cinder.cloud import CloudConfig
from provisioner.core.errors import InvalidRequest

_CONNECTIONS = 64
"""Pooled per cloud: workers of all front ends together."""
_MICROVERSION = "volume 3.42"
"""Growing a volume that is attached came with it; everything else is older."""
_AGENT = f"ceph-provisioner/{provisioner.__version__}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whole. `content` may hold a target's password, and is not shown."""

    status: int
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Route:
    """How calls get there for as long as a token lasts: `base` is what stands before a call's path."""

    token: Mapping[str, str]
    pool: urllib3.HTTPConnectionPool
    base: str


class Transport:
    """One Cinder as one user; thread-safe. Raises what keystoneauth and urllib3 do."""

    def __init__(self, config: CloudConfig) -> None:
        """Nothing is asked yet. Raises InvalidRequest for a cloud that isn't configured."""
        self._cinder = _adapter(config)
        self._session: keystoneauth1.session.Session = self._cinder.session
        self._timeout = urllib3.Timeout(connect=config.timeout, read=config.timeout)
        self._route: _Route | None = None

    def exchange(self, method: str, path: str, query: Mapping[str, Any], body: object) -> Answer:
        """Send one call and give its answer, whatever it says. A token that is refused is renewed, once."""
        answer = self._send(method, path, query, body)
        if answer.status == HTTPStatus.UNAUTHORIZED and self._session.invalidate():
            answer = self._send(method, path, query, body)
        return answer

    def _send(self, method: str, path: str, query: Mapping[str, Any], body: object) -> Answer:
        route = self._way()
        told = {"Accept": "application/json", "User-Agent": _AGENT, "OpenStack-API-Version": _MICROVERSION, **route.token}
        response = route.pool.urlopen(
            method,
            f"{route.base}{path}" + (f"?{urlencode(query)}" if query else ""),
            body=None if body is None else msgspec.json.encode(body),
            headers=told if body is None else {**told, "Content-Type": "application/json"},
            timeout=self._timeout,
            retries=False,
            redirect=False,
        )
        return Answer(response.status, response.data)

    def _way(self) -> _Route:
        """The way that belongs to today's token: with a new one comes a new catalogue."""
        token = self._session.get_auth_headers() or {}
        known = self._route
        if known is None or known.token != token:
            known = self._route = self._found(token)
        return known

    def _found(self, token: Mapping[str, str]) -> _Route:
        endpoint = str(self._cinder.get_endpoint() or "").rstrip("/")
        if not endpoint:
            raise keystoneauth1.exceptions.EndpointNotFound("its catalogue has no block-storage service for us")
        if "%(" in endpoint:
            endpoint %= {name: self._session.get_project_id() for name in ("project_id", "tenant_id")}
        http, asked = self._session.session, requests.Request("GET", endpoint).prepare()
        given = http.merge_environment_settings(endpoint, {}, False, self._session.verify, self._session.cert)
        adapter = cast(requests.adapters.HTTPAdapter, http.get_adapter(endpoint))
        pool = adapter.get_connection_with_tls_context(asked, given["verify"], given["proxies"], given["cert"])
        return _Route(token, pool, adapter.request_url(asked, given["proxies"]).rstrip("/"))


def _adapter(config: CloudConfig) -> keystoneauth1.adapter.Adapter:
    try:
        region = _region(config)
        session = region.get_session()
    except openstack.exceptions.SDKException as error:
        raise InvalidRequest(f"clouds.{config.name}", config.cloud, str(error)) from error
    for scheme in ("http://", "https://"):
        session.mount(scheme, keystoneauth1.session.TCPKeepAliveAdapter(pool_maxsize=_CONNECTIONS))
    interface = region.get_interface("block-storage")
    return keystoneauth1.adapter.Adapter(
        session=session,
        service_type="block-storage",
        interface=interface if isinstance(interface, str) else "public",
        region_name=region.get_region_name("block-storage"),
        endpoint_override=region.get_endpoint("block-storage"),
    )


def _region(config: CloudConfig) -> openstack.config.cloud_region.CloudRegion:
    reader = openstack.config.OpenStackConfig(
        load_yaml_config=not config.endpoint,
        load_envvars=not config.endpoint,
        app_name="ceph-provisioner",
        app_version=provisioner.__version__,
        config_files=[config.file] if config.file else None,
    )
    standalone = {
        "auth_type": "admin_token",
        "auth": {"endpoint": config.endpoint, "token": f"{config.user}:{config.project}"},
        "block_storage_endpoint_override": config.endpoint,
    }
    named = {"cloud": config.cloud} if config.cloud else {}
    placed = {"region_name": config.region} if config.region else {}
    return reader.get_one(api_timeout=config.timeout, **(standalone if config.endpoint else {**named, **placed}))
