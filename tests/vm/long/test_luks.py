"""Encrypted volumes, in the guest: this machine's kernel may have no dm-crypt. Minutes, of Argon2 under emulation."""

import grpc
import pytest

from tests.contract.driver import MIB, refused
from tests.harness.ceph import Ceph
from tests.harness.guest import GuestNode
from tests.harness.node import grow_image, new_image

pytestmark = pytest.mark.timeout(1200)

ENCRYPTED = {"encrypted": "true"}
SECRETS = {"encryptionPassphrase": "correct horse"}


def test_an_encrypted_volume_opens_with_its_passphrase_only_and_holds_nothing_in_clear(guest: GuestNode, ceph: Ceph) -> None:
    volume = new_image(ceph, 128 * MIB)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "encryptionPassphrase"):
        guest.stage(volume, volume_context=ENCRYPTED)
    path = guest.stage(volume, volume_context=ENCRYPTED, secrets=SECRETS)
    guest.run(f"echo a secret that nobody reads >{path}/file && sync")
    assert "correct horse" not in guest.run("cat /run/node.log; cat /proc/*/cmdline")
    grow_image(ceph, volume, 192 * MIB)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "node-expand-secret"):
        guest.expand(volume, path, 192 * MIB)
    assert guest.expand(volume, path, 192 * MIB, secrets=SECRETS) == 192 * MIB
    assert guest.stats(volume, path)["BYTES"].total > 150 * MIB
    guest.unstage(volume)
    assert guest.traces(volume) == []
    assert guest.run("ls /dev/mapper").split() == ["control"]

    with ceph.open_image(volume.rpartition("/")[2]) as image:
        raw = b"".join(image.read(at * MIB, MIB) for at in range(192))
    assert raw.startswith(b"LUKS\xba\xbe\x00\x02")
    assert b"a secret that nobody reads" not in raw

    with refused(grpc.StatusCode.PERMISSION_DENIED, "passphrase"):
        guest.stage(volume, volume_context=ENCRYPTED, secrets={"encryptionPassphrase": "battery staple"})
    assert guest.traces(volume) == []
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "is encrypted"):
        guest.stage(volume)
    assert guest.traces(volume) == []
    guest.stage(volume, volume_context=ENCRYPTED, secrets=SECRETS)
    assert guest.run(f"cat {path}/file") == "a secret that nobody reads\n"
    guest.unstage(volume)
    assert guest.traces(volume) == []
