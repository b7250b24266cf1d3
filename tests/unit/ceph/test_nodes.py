"""Keys in keyrings, as Ceph writes them. Takes no time."""

from provisioner.ceph.nodes import key_in

KEYRING = """[client.admin]
\tkey = AAA==
\tcaps mon = "allow *"

[client.provisioner]
key=BBB==
"""


def test_a_users_key_is_found_in_its_section() -> None:
    assert key_in(KEYRING, "admin") == "AAA=="
    assert key_in(KEYRING, "provisioner") == "BBB=="


def test_a_user_who_is_not_there_has_no_key() -> None:
    assert key_in(KEYRING, "prov") == ""
