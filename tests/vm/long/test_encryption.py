"""LUKS on a mapped image, in the guest: a key that a KMS has, and integrity. About 75 s of one processor."""

from pathlib import Path

import grpc
import pytest

from provisioner.ceph.places import Places
from provisioner.ceph.store import CephStore
from provisioner.core.model import SizeRange
from provisioner.core.volumes import Volumes
from tests.contract.driver import MIB, refused
from tests.harness.ceph import Ceph
from tests.harness.guest import GuestNode, new_volume
from tests.harness.node import grow_image, new_image

pytestmark = pytest.mark.timeout(1800)


def test_a_volume_whose_key_a_kms_has_grows_while_it_is_mounted(
    guest: GuestNode, ceph: Ceph, places: Places, tmp_path: Path
) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse")
    guest.restart_with(kms={"sealed": {"encryptionKMSType": "metadata", "passphraseFile": str(passphrase)}})
    image = new_volume(ceph, places, 128 * MIB)
    volume, how = str(image), {"volume_context": {"encrypted": "true", "encryptionKMSID": "sealed"}}
    path = guest.stage(volume, **how)
    guest.run(f"echo kept >{path}/file")
    assert Volumes(CephStore(places)).expand(image, SizeRange(192 * MIB)).size == 192 * MIB
    assert guest.expand(volume, path, 192 * MIB) == 192 * MIB
    assert guest.stats(volume, path)["BYTES"].total > 150 * MIB
    guest.unstage(volume)
    assert guest.traces(volume) == []
    guest.stage(volume, **how)
    assert guest.run(f"cat {path}/file") == "kept\n"
    assert guest.stats(volume, path)["BYTES"].total > 150 * MIB
    guest.unstage(volume)
    assert guest.traces(volume) == []


def test_a_volume_with_integrity_keeps_its_data_and_its_size(guest: GuestNode, ceph: Ceph) -> None:
    guest.with_cheap_keys()
    volume = new_image(ceph, 64 * MIB)
    secrets = {"encryptionPassphrase": "correct horse"}
    how = {"volume_context": {"encrypted": "true", "integrityMode": "hmac-sha256"}, "secrets": secrets}
    path = guest.stage(volume, **how)
    guest.run(f"echo kept >{path}/file")
    assert guest.run("cat /sys/block/dm-*/dm/uuid").count("CRYPT-INTEGRITY") == 1
    guest.unstage(volume)
    assert guest.traces(volume) == []
    guest.stage(volume, **how)
    assert guest.run(f"cat {path}/file") == "kept\n"
    grow_image(ceph, volume, 128 * MIB)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "integrityMode", "can't be grown"):
        guest.expand(volume, path, 128 * MIB, secrets=secrets)
    guest.unstage(volume)
    assert guest.traces(volume) == []
    guest.stage(volume, **how)
    assert guest.run(f"cat {path}/file") == "kept\n"
    guest.unstage(volume)
    assert guest.traces(volume) == []
