"""The configuration files that Cinder and Keystone read, and what a directory remembers of itself."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

SETTINGS = "dev-cinder.json"
USER = "cinder"
"""The cephx user that Cinder works as, and whose name its connections tell."""
PASSWORD = "not-a-secret"
"""Of every Keystone user here: the service listens on loopback, and holds nothing."""

_CINDER = """\
[DEFAULT]
host = dev
my_ip = 127.0.0.1
auth_strategy = noauth
osapi_volume_listen = 127.0.0.1
osapi_volume_listen_port = {port}
osapi_volume_workers = 1
enabled_backends = {backends}
default_volume_type = rbd
transport_url = fake://
state_path = {home}/state
log_file = {home}/log/cinder.log
api_paste_config = {etc}/api-paste.ini
resource_query_filters_file = {etc}/resource_filters.json
rootwrap_config = {etc}/rootwrap.conf
storage_availability_zone = nova
scheduler_driver_init_wait_time = 1
report_interval = 10
# of several services in one process only the last goes on reporting: none may count as down for that
service_down_time = 86400
glance_api_servers = http://127.0.0.1:1
quota_volumes = 500
quota_snapshots = 500
[database]
connection = sqlite:///{home}/cinder.sqlite
sqlite_synchronous = false
[oslo_concurrency]
lock_path = {home}/state/lock
[coordination]
backend_url = file://{home}/state/coordination
[keystone_authtoken]
www_authenticate_uri = http://127.0.0.1:{keystone}/v3
auth_url = http://127.0.0.1:{keystone}/v3
auth_type = password
username = admin
password = {password}
project_name = admin
user_domain_id = default
project_domain_id = default
interface = public
service_token_roles_required = false
"""

_RBD = """\
[{name}]
volume_driver = {driver}
volume_backend_name = {name}
rbd_pool = {pool}
rbd_ceph_conf = {home}/ceph.conf
rbd_user = {user}
rbd_cluster_name = ceph
rbd_secret_uuid = 00000000-0000-4000-8000-000000000001
rados_connect_timeout = 10
rbd_exclusive_cinder_pool = true
# clones are whole copies: of a copy-on-write one, this Cinder leaves its source as `volume-UUID.deleted` for ever
rbd_max_clone_depth = 0
"""

_ISCSI = """\
target_helper = tgtadm
target_protocol = iscsi
target_prefix = iqn.2010-10.org.openstack:
target_ip_address = 127.0.0.1
target_port = {iscsi}
use_chap_auth = true
volumes_dir = {home}/state/volumes
"""

_KEYSTONE = """\
[DEFAULT]
log_file = {home}/log/keystone.log
[database]
connection = sqlite:///{home}/keystone.sqlite
[token]
provider = fernet
[fernet_tokens]
key_repository = {home}/fernet-keys
[credential]
key_repository = {home}/credential-keys
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a directory's Cinder is. All but the first two and the last are ports; `iscsi` is 0 where that part is left out."""

    ceph: str
    pool: str
    noauth: int
    authenticated: int
    keystone: int
    iscsi: int = 0
    with_keystone: bool = False

    @classmethod
    def load(cls, home: Path) -> "Settings | None":
        """Those of the Cinder in `home`, if it holds one."""
        try:
            return cls(**json.loads((home / SETTINGS).read_text()))
        except FileNotFoundError:
            return None

    def save(self, home: Path) -> None:
        """Write them whole or not at all."""
        (home / f"{SETTINGS}.new").write_text(json.dumps(asdict(self)))
        os.replace(home / f"{SETTINGS}.new", home / SETTINGS)

    @property
    def backends(self) -> tuple[str, ...]:
        """Volume services, and the volume types that lead to them."""
        return ("rbd", "iscsi") if self.iscsi else ("rbd",)


def cinder_conf(home: Path, etc: Path, settings: Settings | None = None) -> str:
    """The text of cinder.conf; without settings, enough of it to make the database."""
    settings = settings or Settings(ceph="", pool="", noauth=0, authenticated=0, keystone=0)
    common = {"home": home, "pool": settings.pool, "user": USER, "iscsi": settings.iscsi}
    text = _CINDER.format(
        **common,
        port=settings.noauth,
        backends=",".join(settings.backends),
        etc=etc,
        keystone=settings.keystone,
        password=PASSWORD,
    )
    text += _RBD.format(**common, name="rbd", driver="cinder.volume.drivers.rbd.RBDDriver")
    if settings.iscsi:
        text += _RBD.format(**common, name="iscsi", driver="exported_rbd.ExportedRbdDriver") + _ISCSI.format(**common)
    return text


def keystone_conf(home: Path) -> str:
    """The text of keystone.conf."""
    return _KEYSTONE.format(home=home)
