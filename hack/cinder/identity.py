"""What Keystone is told: the project and the user that volumes are made as, and where Cinder is."""

import json
import urllib.request
from typing import Any

from .http import call
from .settings import PASSWORD, Settings

REGION, PROJECT, PROVISIONER = "RegionOne", "volumes", "provisioner"


def register(settings: Settings) -> None:
    """Have the project, the user with its role, and both services in the catalogue; there already is fine."""
    url = f"http://127.0.0.1:{settings.keystone}/v3"
    token = _token(url)
    project = _ensured(url, token, "project", {"name": PROJECT, "domain_id": "default"})
    user = _ensured(url, token, "user", {"name": PROVISIONER, "domain_id": "default", "password": PASSWORD})
    role = call("GET", f"{url}/roles?name=member", token)["roles"][0]
    call("PUT", f"{url}/projects/{project['id']}/users/{user['id']}/roles/{role['id']}", token)
    _list(url, token, "keystone", "identity", url)
    _list(url, token, "cinder", "block-storage", f"http://127.0.0.1:{settings.authenticated}/v3")


def clouds_yaml(settings: Settings) -> str:
    """A clouds.yaml (JSON is YAML) with the cloud `dev`, as the user that volumes are made as."""
    auth = {
        "auth_url": f"http://127.0.0.1:{settings.keystone}/v3",
        "username": PROVISIONER,
        "password": PASSWORD,
        "project_name": PROJECT,
        "user_domain_id": "default",
        "project_domain_id": "default",
    }
    return json.dumps({"clouds": {"dev": {"auth": auth, "region_name": REGION}}}, indent=1) + "\n"


def _list(url: str, token: str, name: str, kind: str, where: str) -> None:
    service = _ensured(url, token, "service", {"name": name, "type": kind})
    if not call("GET", f"{url}/endpoints?service_id={service['id']}", token)["endpoints"]:
        place = {"interface": "public", "region_id": REGION, "url": where}
        call("POST", f"{url}/endpoints", token, {"endpoint": {**place, "service_id": service["id"]}})


def _ensured(url: str, token: str, kind: str, wanted: dict[str, str]) -> dict[str, Any]:
    found = call("GET", f"{url}/{kind}s?name={wanted['name']}", token)[f"{kind}s"]
    made: dict[str, Any] = found[0] if found else call("POST", f"{url}/{kind}s", token, {kind: wanted})[kind]
    return made


def _token(url: str) -> str:
    """A token of the administrator that `keystone-manage bootstrap` made."""
    user = {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    request = urllib.request.Request(f"{url}/auth/tokens", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.headers["X-Subject-Token"])
