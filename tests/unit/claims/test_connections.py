"""Connections as Cinder's drivers tell them, and the PersistentVolume sources that they become."""

from typing import Any

import pytest

from provisioner.claims.classes import Class
from provisioner.claims.connected import kinds
from provisioner.claims.connections.kind import Authentication, Mounting
from provisioner.core.connections import Connection
from provisioner.core.errors import InvalidRequest, Unsupported
from provisioner.core.ids import Place
from provisioner.core.parameters import SecretRef, read_parameters

SECRET = SecretRef("ceph-provisioner", "pvc-1-connection")
EXT4 = Mounting("ext4", read_only=False)
RBD = {
    "name": "volumes/volume-5b9ea1d5-284a-436c-8039-28042d35f45c",
    "hosts": ["10.0.0.1", "fd00::2"],
    "ports": ["6789", "6789"],
    "auth_enabled": True,
    "auth_username": "cinder",
    "secret_type": "ceph",
    "access_mode": "rw",
    "encrypted": False,
}
ISCSI = {
    "target_portal": "10.0.0.1:3260",
    "target_iqn": "iqn.2010-10.org.openstack:volume-1",
    "target_lun": 1,
    "auth_method": "CHAP",
    "auth_username": "user",
    "auth_password": "word",
    "encrypted": False,
}
# written by hand, in the form that Cinder's drivers document: there was no fabric to record one of
FIBRE_CHANNEL = {
    "target_discovered": True,
    "target_lun": 3,
    "target_wwn": ["500A0980891B1B34", "500A0980891B1B35"],
    "initiator_target_map": {"21000024FF30441C": ["500A0980891B1B34"]},
    "encrypted": False,
}


def a_class(**parameters: str) -> Class:
    said = {"reclaim_policy": "Delete", "mount_options": ()}
    return Class("c", read_parameters(parameters), Place("openstack", "cinder"), **said)  # type: ignore[arg-type]


def connection(kind: str, data: dict[str, Any], **changes: Any) -> Connection:
    return Connection(kind, {key: value for key, value in (data | changes).items() if value is not None}, "iqn.nodes")


def authentication(told: Connection, storage_class: Class | None = None, key: str = "cephx") -> object:
    return kinds(lambda _monitors, _user: key)[told.kind].authentication(told, storage_class or a_class())


def source(told: Connection, secret: SecretRef | None = SECRET, mounting: Mounting = EXT4) -> dict[str, Any]:
    return kinds(lambda _monitors, _user: "")[told.kind].source(told, secret, mounting)


def test_rbd_is_monitors_pool_image_user_and_a_secret() -> None:
    assert source(connection("rbd", RBD)) == {
        "rbd": {
            "monitors": ["10.0.0.1:6789", "[fd00::2]:6789"],
            "pool": "volumes",
            "image": "volume-5b9ea1d5-284a-436c-8039-28042d35f45c",
            "user": "cinder",
            "secretRef": {"namespace": "ceph-provisioner", "name": "pvc-1-connection"},
            "readOnly": False,
            "fsType": "ext4",
        }
    }


def test_a_block_volume_has_no_file_system_and_a_read_only_one_says_so() -> None:
    made = source(connection("rbd", RBD), mounting=Mounting("", read_only=True))["rbd"]
    assert made["readOnly"] is True
    assert "fsType" not in made


def test_rbd_s_key_is_looked_for_by_monitors_and_user() -> None:
    asked: list[tuple[list[str], str]] = []

    def find(monitors: Any, user: str) -> str:
        asked.append((list(monitors), user))
        return "cephx"

    made = kinds(find)["rbd"].authentication(connection("rbd", RBD), a_class())
    assert made == Authentication("kubernetes.io/rbd", {"key": "cephx"})
    assert asked == [(["10.0.0.1:6789", "[fd00::2]:6789"], "cinder")]


def test_rbd_without_a_key_says_what_to_do() -> None:
    with pytest.raises(InvalidRequest, match="add an entry with these monitors, user cinder and its keyring"):
        authentication(connection("rbd", RBD), key="")


def test_rbd_s_secret_may_be_named_by_the_class() -> None:
    named = a_class(userSecretName="key", userSecretNamespace="storage")
    assert authentication(connection("rbd", RBD), named, key="") == SecretRef("storage", "key")


def test_rbd_without_cephx_needs_no_secret() -> None:
    told = connection("rbd", RBD, auth_enabled=False)
    assert authentication(told, key="") is None
    assert "secretRef" not in source(told, None)["rbd"]


@pytest.mark.parametrize("changes", [{"name": "volume-1"}, {"name": "pool/namespace/volume-1"}, {"ports": []}, {"hosts": None}])
def test_rbd_that_leads_nowhere_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="a connection of type 'rbd'"):
        source(connection("rbd", RBD, **changes))


def test_iscsi_is_a_target_chap_and_the_initiator_it_was_exported_to() -> None:
    assert source(connection("iscsi", ISCSI)) == {
        "iscsi": {
            "targetPortal": "10.0.0.1:3260",
            "iqn": "iqn.2010-10.org.openstack:volume-1",
            "lun": 1,
            "initiatorName": "iqn.nodes",
            "chapAuthSession": True,
            "chapAuthDiscovery": False,
            "secretRef": {"namespace": "ceph-provisioner", "name": "pvc-1-connection"},
            "readOnly": False,
            "fsType": "ext4",
        }
    }


def test_iscsi_s_chap_secret_is_of_the_kubelet_s_type_and_keys() -> None:
    assert authentication(connection("iscsi", ISCSI)) == Authentication(
        "kubernetes.io/iscsi-chap", {"node.session.auth.username": "user", "node.session.auth.password": "word"}
    )


def test_iscsi_s_discovery_may_ask_for_chap_too() -> None:
    told = connection(
        "iscsi", ISCSI, discovery_auth_method="CHAP", discovery_auth_username="finder", discovery_auth_password="found"
    )
    made = authentication(told)
    assert isinstance(made, Authentication)
    assert made.data["discovery.sendtargets.auth.username"] == "finder"
    assert made.data["discovery.sendtargets.auth.password"] == "found"
    assert source(told)["iscsi"]["chapAuthDiscovery"] is True


def test_iscsi_without_chap_needs_no_secret() -> None:
    told = connection("iscsi", ISCSI, auth_method=None, auth_username=None, auth_password=None)
    assert authentication(told) is None
    assert source(told, None)["iscsi"]["chapAuthSession"] is False


def test_iscsi_with_another_authentication_is_refused() -> None:
    with pytest.raises(Unsupported, match="only CHAP is known"):
        authentication(connection("iscsi", ISCSI, auth_method="SRP"))


def test_iscsi_s_further_portals_are_those_of_the_same_target() -> None:
    told = connection(
        "iscsi",
        ISCSI,
        target_portals=["10.0.0.1:3260", "10.0.1.1:3260", "10.0.2.1:3260"],
        target_iqns=[ISCSI["target_iqn"], ISCSI["target_iqn"], "iqn.another"],
        target_luns=[1, 1, 1],
    )
    assert source(told)["iscsi"]["portals"] == ["10.0.1.1:3260"]


def test_fibre_channel_is_wwns_and_a_lun() -> None:
    assert source(connection("fibre_channel", FIBRE_CHANNEL), None) == {
        "fc": {"targetWWNs": ["500a0980891b1b34", "500a0980891b1b35"], "lun": 3, "readOnly": False, "fsType": "ext4"}
    }
    assert authentication(connection("fibre_channel", FIBRE_CHANNEL)) is None


def test_fibre_channel_with_one_wwn_as_text() -> None:
    told = connection("fibre_channel", FIBRE_CHANNEL, target_wwn="500A0980891B1B34")
    assert source(told, None)["fc"]["targetWWNs"] == ["500a0980891b1b34"]


def test_fibre_channel_with_several_luns_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"the LUNs \[3, 4\]"):
        source(connection("fibre_channel", FIBRE_CHANNEL, target_luns=[3, 4]), None)


@pytest.mark.parametrize(("kind", "data"), [("rbd", RBD), ("iscsi", ISCSI), ("fibre_channel", FIBRE_CHANNEL)])
def test_what_the_client_should_decrypt_is_refused(kind: str, data: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="no kubelet decrypts it"):
        authentication(connection(kind, data, encrypted=True))


def test_a_connection_does_not_show_its_password() -> None:
    told = connection("iscsi", ISCSI)
    assert "word" not in repr(told)
    assert "word" not in repr(authentication(told))
