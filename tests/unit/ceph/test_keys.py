"""Keys of the config file's clusters, found by monitors and user."""

from pathlib import Path

import pytest

from provisioner.ceph.cluster import ClusterConfig, Clusters
from provisioner.ceph.keys import Keys, key_of
from provisioner.core.errors import Unavailable

KEYRING = """\
[client.provisioner]
\tkey = of-the-provisioner
\tcaps mon = "profile rbd"

[client.admin]
key=of-the-admin==
[client.cinder]
\tkey = of-cinder==
\tcaps osd = "profile rbd pool=volumes, profile rbd-read-only pool=images"
"""


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    path = tmp_path / "keyring"
    path.write_text(KEYRING)
    return path


def keys(**config: object) -> Keys:
    known = ClusterConfig("c", monitors=("10.0.0.1:6789", "10.0.0.2:6789"), **config)  # type: ignore[arg-type]
    return Keys(Clusters(lambda: {"c": known}))


def test_a_keyring_may_hold_others_keys_than_the_cluster_s_own(keyring: Path) -> None:
    assert keys(keyring=str(keyring)).find(["10.0.0.2:6789"], "cinder") == "of-cinder=="


def test_a_user_that_the_keyring_does_not_hold_has_no_key(keyring: Path) -> None:
    assert keys(keyring=str(keyring)).find(["10.0.0.2:6789"], "nova") == ""


def test_a_key_file_is_the_key_of_the_cluster_s_own_user_only(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("bare\n")
    found = keys(user="cinder", key_file=str(path))
    assert found.find(["10.0.0.1:6789"], "cinder") == "bare"
    assert found.find(["10.0.0.1:6789"], "provisioner") == ""


def test_what_cannot_be_read_is_passed_over_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert keys(keyring=str(tmp_path / "none")).find(["10.0.0.1:6789"], "cinder") == ""
    assert "looking for the key of client.cinder in cluster c" in caplog.text


def test_the_keyring_that_librados_would_read_will_do_where_none_is_configured(keyring: Path) -> None:
    config = ClusterConfig("c", conf="/etc/ceph/ceph.conf", user="admin")
    assert key_of(config, "admin", str(keyring)) == "of-the-admin=="
    assert key_of(config, "adm", str(keyring)) == ""


def test_a_keyring_that_makes_no_sense_is_told_by_name_and_nothing_of_it(keyring: Path) -> None:
    keyring.write_text("key = secret==")
    with pytest.raises(Unavailable, match=f"can't make sense of keyring {keyring}$") as told:
        key_of(ClusterConfig("c", keyring=str(keyring)), "admin")
    assert told.value.__cause__ is None
