"""The ways to be somebody for a Cinder behind a real Keystone, and to find it in its catalogue. About 30 s."""

import json
import ssl
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import openstack
import pytest
import trustme

from hack.cinder.settings import PASSWORD
from provisioner.cinder.api import Clouds
from provisioner.cinder.cloud import POOL, CloudConfig
from provisioner.cinder.offering import GIB, Offering
from provisioner.cinder.store import CinderStore
from provisioner.core.errors import Denied, Unavailable
from provisioner.core.ids import Place
from provisioner.core.model import CreateRequest, SizeRange
from provisioner.core.volumes import Volumes
from tests.harness.ceph import Ceph
from tests.harness.cinder import Cinder, start_keystone
from tests.harness.proxy import CinderProxy, proxied

PLACE = Place("c", POOL)


@dataclass(frozen=True)
class Identity:
    """What Keystone's administrator sees, and the `dev` of its clouds.yaml: a member of a project."""

    dev: dict[str, Any]
    admin: openstack.connection.Connection = field(repr=False)

    def write(self, directory: Path, auth: dict[str, str], **fields: object) -> Path:
        """A clouds.yaml whose cloud `c` says this in place of what `dev` does."""
        path = directory / "clouds.yaml"
        path.write_text(json.dumps({"clouds": {"c": {**self.dev, **fields, "auth": auth}}}))
        return path

    def connect(self) -> openstack.connection.Connection:
        """Be `dev`."""
        return openstack.connect(load_yaml_config=False, load_envvars=False, **self.dev)

    def make_user(self, domain: str = "default") -> Any:
        return self.admin.identity.create_user(name=f"u-{uuid.uuid4().hex[:8]}", password=PASSWORD, domain_id=domain)


@dataclass(frozen=True)
class Secured:
    """The Cinder behind TLS: `endpoint` is its URL, `identity` Keystone's, `authority` a file that vouches for both."""

    endpoint: str
    identity: str
    authority: str
    cinder: CinderProxy
    keystone: CinderProxy


@pytest.fixture(scope="module")
def clouds(cinder: Cinder) -> Path:
    return start_keystone(cinder)


@pytest.fixture(scope="module")
def identity(clouds: Path) -> Iterator[Identity]:
    dev = json.loads(clouds.read_text())["clouds"]["dev"]
    root = {"username": "admin", "password": PASSWORD, "project_name": "admin"}
    default = {"user_domain_id": "default", "project_domain_id": "default"}
    auth = {"auth_url": dev["auth"]["auth_url"], **root, **default}
    with openstack.connect(load_yaml_config=False, load_envvars=False, auth=auth, region_name=dev["region_name"]) as admin:
        yield Identity(dev, admin)


@pytest.fixture(scope="module")
def secured(identity: Identity, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    (service,) = identity.admin.identity.services(type="block-storage")
    (known,) = identity.admin.identity.endpoints(service_id=service.id, region_id=identity.dev["region_name"])
    with proxied(known.url, context) as (cinder, endpoint), proxied(identity.dev["auth"]["auth_url"], context) as (keystone, url):
        yield Secured(endpoint, url, str(file), cinder, keystone)


def volumes(path: Path | str, **fields: Any) -> Volumes:
    """The volumes of cloud `c` in a clouds.yaml."""
    config = CloudConfig("c", **{"cloud": "c", "file": str(path), **fields})
    return Volumes(CinderStore(Clouds(lambda: {"c": config})))


def works(found: Volumes) -> bool:
    return found.capacity(PLACE).available > 0


def test_a_member_of_a_project_can_do_everything(clouds: Path, cinder: Cinder, ceph: Ceph) -> None:
    config, name = CloudConfig("c", cloud="dev", file=str(clouds)), f"pvc-{uuid.uuid4()}"
    store = CinderStore(Clouds(lambda: {"c": config}))
    member = Volumes(store)
    made = member.create(CreateRequest(name, PLACE, SizeRange(GIB), Offering(type="rbd"), {}))
    assert store.connect(made).kind == "rbd"
    assert member.expand(made.id, SizeRange(2 * GIB)).size == 2 * GIB
    assert works(member)
    member.delete(made.id, None, made.image_id)
    cinder.wait_nothing_left(ceph, name)


def test_an_application_credential_will_do(identity: Identity, tmp_path: Path) -> None:
    with identity.connect() as user:
        made = user.identity.create_application_credential(user.current_user_id, f"tests-{uuid.uuid4().hex}")
    auth = {
        "auth_url": identity.dev["auth"]["auth_url"],
        "application_credential_id": made.id,
        "application_credential_secret": made.secret,
    }
    assert works(volumes(identity.write(tmp_path, auth, auth_type="v3applicationcredential")))


def test_a_trust_will_do(identity: Identity, tmp_path: Path) -> None:
    trustee = identity.make_user()
    with identity.connect() as user:
        trust = user.identity.create_trust(
            project_id=user.current_project_id,
            roles=[{"name": "member"}],
            trustor_user_id=user.current_user_id,
            trustee_user_id=trustee.id,
            is_impersonation=True,
        )
    known = {"auth_url": identity.dev["auth"]["auth_url"], "user_id": trustee.id, "password": PASSWORD}
    assert works(volumes(identity.write(tmp_path, {**known, "trust_id": trust.id})))
    with pytest.raises(Denied):
        works(volumes(identity.write(tmp_path, {**known, "trust_id": "0" * 32})))


def test_user_and_project_may_be_of_a_domain_of_their_own(identity: Identity, tmp_path: Path) -> None:
    domain = identity.admin.identity.create_domain(name=f"d-{uuid.uuid4().hex[:8]}")
    project = identity.admin.identity.create_project(name="volumes", domain_id=domain.id)
    user = identity.make_user(domain.id)
    (role,) = identity.admin.identity.roles(name="member")
    identity.admin.identity.assign_project_role_to_user(project, user, role)
    known = {"auth_url": identity.dev["auth"]["auth_url"], "username": user.name, "password": PASSWORD}
    named = {"project_name": "volumes", "user_domain_name": domain.name, "project_domain_name": domain.name}
    assert works(volumes(identity.write(tmp_path, {**known, **named})))
    with pytest.raises(Denied):
        works(volumes(identity.write(tmp_path, {**known, **named, "user_domain_name": "Default"})))


def test_the_region_says_which_cinder_of_the_catalogue_it_is(identity: Identity, secured: Secured, tmp_path: Path) -> None:
    region = identity.admin.identity.create_region(id=f"r-{uuid.uuid4().hex[:8]}")
    (service,) = identity.admin.identity.services(type="block-storage")
    place = {"interface": "public", "region_id": region.id, "url": secured.endpoint}
    identity.admin.identity.create_endpoint(service_id=service.id, **place)
    anywhere = replace(identity, dev={key: said for key, said in identity.dev.items() if key != "region_name"})
    path, before = anywhere.write(tmp_path, identity.dev["auth"], cacert=secured.authority), secured.cinder.calls
    assert works(volumes(path, region=identity.dev["region_name"]))
    assert secured.cinder.calls == before, "the other region's"
    assert works(volumes(path, region=region.id))
    assert secured.cinder.calls > before
    with pytest.raises(Unavailable, match="block-storage"):
        works(volumes(path, region="nowhere"))


def test_the_ca_file_vouches_for_keystone_and_cinder(identity: Identity, secured: Secured, tmp_path: Path) -> None:
    auth, before = {**identity.dev["auth"], "auth_url": secured.identity}, (secured.keystone.calls, secured.cinder.calls)
    fields = {"auth_type": "v3password", "block_storage_endpoint_override": secured.endpoint, "cacert": secured.authority}
    assert works(volumes(identity.write(tmp_path, auth, **fields)))
    assert secured.keystone.calls > before[0]
    assert secured.cinder.calls > before[1]


@pytest.mark.parametrize("stranger", ["Keystone", "Cinder"])
def test_one_that_nobody_vouches_for_is_not_spoken_with(
    identity: Identity, secured: Secured, tmp_path: Path, stranger: str
) -> None:
    auth, fields = identity.dev["auth"], {"auth_type": "v3password"}
    if stranger == "Keystone":
        auth = {**auth, "auth_url": secured.identity}
    else:
        fields["block_storage_endpoint_override"] = secured.endpoint
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        works(volumes(identity.write(tmp_path, auth, **fields)))


def test_a_wrong_password_is_denied_and_a_file_that_is_mended_is_read_again(identity: Identity, tmp_path: Path) -> None:
    path = identity.write(tmp_path, {**identity.dev["auth"], "password": "wrong"})
    found = volumes(path)
    with pytest.raises(Denied, match="Cinder denies"):
        works(found)
    identity.write(tmp_path, identity.dev["auth"])
    assert works(found)


def test_a_token_that_is_refused_is_renewed(clouds: Path) -> None:
    config = CloudConfig("c", cloud="dev", file=str(clouds))
    door = Clouds(lambda: {"c": config})
    found, session = Volumes(CinderStore(door)), door.api("c")._transport._session
    assert works(found)
    session.auth.auth_ref._auth_token = "forgotten"
    assert works(found)
    assert session.get_token() != "forgotten"


def test_what_os_variables_say_will_do(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {**identity.dev["auth"], "region_name": identity.dev["region_name"]}.items():
        monkeypatch.setenv(f"OS_{key.upper()}", value)
    monkeypatch.setenv("HOME", "/nonexistent")
    assert works(volumes("", cloud=""))
