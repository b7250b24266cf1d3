"""The keys of encrypted volumes: made with the volume, handed down to copies, replaced, forgotten. About a minute.

Headers are made and opened by cryptsetup; to open the device behind one takes the device mapper, which is the virtual machine's
to show (tests/vm). Vault is a stand-in for its HTTP API (tests/harness/vault.py).
"""

import contextlib
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import rbd

from csi.pb import csi_pb2
from provisioner.ceph.cluster import Clusters
from provisioner.ceph.nodes import KEYS, NodeImages
from provisioner.core.attachments import Node
from provisioner.core.encryption import Encryption
from provisioner.core.errors import InUse
from provisioner.core.ids import VolumeId
from provisioner.core.keys import KeyRecord, VolumeKeys
from provisioner.core.model import Opening
from provisioner.host import luks as luks_module
from provisioner.host.build import key_rotation
from provisioner.host.commands import Commands
from provisioner.host.devices.fuse import FuseDevices
from provisioner.host.errand import Errand
from provisioner.host.luks import Luks
from provisioner.host.mounts import Mounts
from provisioner.host.rotation import Rotation
from provisioner.key_sweep import KeySweep
from provisioner.kms.build import KeyServices
from provisioner.kms.settings import KmsConfig
from tests.contract.driver import MIB, Driver, capability, refused, running
from tests.harness import vault as stand_in
from tests.harness.ceph import Ceph
from tests.harness.node import node_program
from tests.harness.program import PROGRAM
from tests.harness.store import blocklisted
from tests.harness.vault import Vault
from tests.harness.waiting import until

KINDS = ("metadata", "kv", "transit")
SECRET = {"encryptionPassphrase": "of the secret"}
HEADER = 16 * MIB


class Setting:
    """A controller with three KMS, and what looks behind it."""

    def __init__(self, ceph: Ceph, driver: Driver, vault: Vault, configs: dict[str, KmsConfig]) -> None:
        self.ceph, self.driver, self.vault, self.configs = ceph, driver, vault, configs
        self.services = KeyServices(lambda: configs)
        self.images = NodeImages(Clusters(lambda: {"dev": ceph.config()}))
        self.keys = VolumeKeys(self.images, self.services.get)
        self.errand = Errand(driver.attachments, "rotate-key")

    @property
    def section(self) -> dict[str, str]:
        """The KMS `kv` as a config file has it."""
        config = self.configs["kv"]
        files = {"vaultAddress": config.address, "vaultTokenFile": config.token_file}
        return {"encryptionKMSType": "vault", "vaultPassphrasePath": "cp/", **files}

    def program_config(self, directory: Path) -> Path:
        """A config file with the KMS `kv`."""
        file = self.ceph.config_file(directory)
        file.write_text(json.dumps({**json.loads(file.read_text()), "kms": {"kv": self.section}}))
        return file

    def create(self, kind: str, **fields: object) -> str:
        parameters = {"pool": self.ceph.pool, "encrypted": "true", "encryptionKMSID": kind}
        return self.driver.create(size=64 * MIB, parameters=parameters, secrets=SECRET, **fields).volume_id

    def copy(self, kind: str, volume: str) -> str:
        source = csi_pb2.VolumeContentSource.VolumeSource(volume_id=volume)
        return self.create(kind, volume_content_source=csi_pb2.VolumeContentSource(volume=source))

    def opening(self, volume: str) -> Opening:
        return self.images.opening(VolumeId.parse(volume), None)

    def record(self, volume: str) -> KeyRecord:
        found = self.images.key_record(self.opening(volume))
        assert found is not None
        return found

    def found_keys(self, volume: str) -> tuple[str, ...]:
        return self.keys.find(self.opening(volume), SECRET["encryptionPassphrase"])

    def write_header(self, volume: str, directory: Path) -> None:
        """Encrypt the image as a node would, without a device."""
        file = directory / "made"
        with file.open("wb") as made:
            made.truncate(64 * MIB)
        Luks(Commands()).format(file, Encryption("x"), self.found_keys(volume)[0])
        with self.ceph.open_image(volume.rpartition("/")[2]) as image, file.open("rb") as made:
            image.write(made.read(MIB), 0)  # both copies of the metadata and the first key slots

    def header(self, volume: str, directory: Path) -> Path:
        file = directory / volume.rpartition("/")[2]
        with self.ceph.open_image(volume.rpartition("/")[2]) as image:
            file.write_bytes(image.read(0, HEADER + MIB))
        return file

    def opens(self, volume: str, directory: Path) -> list[bool]:
        """Which of the keys that the KMS has open the image's header, newest first."""
        file, luks = self.header(volume, directory), Luks(Commands())
        return [luks.opens(file, key) for key in self.found_keys(volume)]


@pytest.fixture(scope="module")
def setting(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    directory = tmp_path_factory.mktemp("keys")
    (directory / "token").write_text("root")
    with stand_in.vault() as vault:
        vault.tokens.add("root")
        common = {"address": vault.address, "token_file": str(directory / "token"), "timeout": 2}
        configs = {
            "metadata": KmsConfig("metadata", "metadata"),
            "kv": KmsConfig("kv", "vault", key_path="cp/", **common),  # type: ignore[arg-type]
            "transit": KmsConfig("transit", "vaulttransit", transit_key="volumes", **common),  # type: ignore[arg-type]
        }
        with running(ceph, directory, kms=configs) as driver:
            yield Setting(ceph, driver, vault, configs)


@pytest.fixture(autouse=True)
def light_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a guess is not what is shown here."""
    cheap = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    monkeypatch.setattr(luks_module, "_DERIVATION", cheap)


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_has_a_key_from_its_creation_on_and_keeps_it_when_asked_for_again(setting: Setting, kind: str) -> None:
    volume = setting.create(kind)
    record = setting.record(volume)
    assert (record.image_id, record.kms, len(record.tokens)) == (setting.opening(volume).image_id, kind, 1)
    (key,) = setting.found_keys(volume)
    again = setting.create(kind, name=volume.rpartition("/")[2])
    assert (again, setting.found_keys(volume)) == (volume, (key,))
    assert key not in json.dumps(setting.ceph.image_metadata(volume.rpartition("/")[2]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_opens_with_keys_of_its_own_after_its_source_is_gone(setting: Setting, tmp_path: Path, kind: str) -> None:
    volume = setting.create(kind)
    setting.write_header(volume, tmp_path)
    copy = setting.copy(kind, volume)
    record = setting.record(copy)
    assert record.image_id == setting.opening(copy).image_id
    assert not set(record.tokens) & set(setting.record(volume).tokens)
    setting.driver.delete(volume)
    assert setting.opens(copy, tmp_path) == [True]


def test_a_node_makes_the_header_with_the_key_that_the_kms_has(setting: Setting, tmp_path: Path) -> None:
    volume = setting.create("kv")
    context = {"encrypted": "true", "encryptionKMSID": "kv", "encryptionSectorSize": "4096"}
    with node_program(setting.ceph) as node:
        file = node.directory / "config.yaml"
        file.write_text(json.dumps({**json.loads(file.read_text()), "kms": {"kv": setting.section}}))
        with contextlib.suppress(grpc.RpcError):  # where there is no device mapper, this is as far as it goes
            node.stage(volume, volume_context=context)
        with contextlib.suppress(grpc.RpcError):
            node.unstage(volume)
        said = node.log.read_text()
        page = re.findall(r"status at (http://\S+)", said)[-1]
        with urllib.request.urlopen(f"{page}/metrics", timeout=10) as answer:  # noqa: S310
            metrics = answer.read().decode()
    assert re.search(r'kms_request_seconds_count\{kms="kv",outcome="ok",request="unwrap"\} [1-9]', metrics)
    assert setting.opens(volume, tmp_path) == [True]
    assert setting.found_keys(volume)[0] not in said


def test_a_key_in_vault_is_forgotten_once_the_image_is_gone_and_not_before(setting: Setting) -> None:
    kept, gone = setting.create("kv"), setting.create("kv")
    tokens, image_id = [setting.record(each).tokens[0] for each in (kept, gone)], setting.opening(gone).image_id
    sweep = KeySweep(setting.images, setting.services)
    setting.driver.delete(gone)
    sweep.sweep()
    assert [token in setting.vault.secrets for token in tokens] == [True, True]  # it can be taken back from the trash
    with setting.ceph.admin_pool() as pool:
        rbd.RBD().trash_remove(pool, image_id, True)
    sweep.sweep()
    assert [token in setting.vault.secrets for token in tokens] == [True, False]


def test_a_kms_that_is_away_makes_a_create_unavailable_with_its_address_and_in_time(setting: Setting) -> None:
    setting.vault.sealed = True
    started = time.monotonic()
    try:
        with refused(grpc.StatusCode.UNAVAILABLE, setting.vault.address, "sealed"):
            setting.create("kv", name="pvc-while-sealed")
    finally:
        setting.vault.sealed = False
    assert time.monotonic() - started < 20
    assert setting.found_keys(setting.create("kv", name="pvc-while-sealed"))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"encryptionKMSID": "elsewhere"}, ["encryptionKMSID", "elsewhere", "kv, metadata, transit"]),
        ({"encryptionCipher": "rot13"}, ["parameters.encryptionCipher", "rot13"]),
        ({"encryptionKeySize": "77"}, ["parameters.encryptionKeySize", "77", "256"]),
        ({"encryptionSectorSize": "77"}, ["parameters.encryptionSectorSize", "77", "4096"]),
        ({"integrityMode": "crc32"}, ["parameters.integrityMode", "crc32", "hmac-sha256"]),
    ],
    ids=lambda given: "",
)
def test_what_cannot_be_encrypted_so_is_refused_by_field_and_value(
    setting: Setting, parameters: dict[str, str], said: list[str]
) -> None:
    before = set(setting.ceph.image_ids())
    asked = {"pool": setting.ceph.pool, "encrypted": "true", **parameters}
    with refused(grpc.StatusCode.INVALID_ARGUMENT, *said):
        setting.driver.create("pvc-refused", parameters=asked, secrets=SECRET)
    assert "pvc-refused" not in set(setting.ceph.image_ids()) - before


def test_a_wrong_passphrase_is_denied_and_not_told(setting: Setting) -> None:
    volume = setting.create("metadata")
    source = csi_pb2.VolumeContentSource(volume=csi_pb2.VolumeContentSource.VolumeSource(volume_id=volume))
    parameters = {"pool": setting.ceph.pool, "encrypted": "true", "encryptionKMSID": "metadata"}
    with pytest.raises(grpc.RpcError) as caught:
        setting.driver.create(
            parameters=parameters, secrets={"encryptionPassphrase": "hunter2"}, volume_content_source=source, size=64 * MIB
        )
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "hunter2" not in caught.value.details()


class Killed(BaseException):
    """What a kill is to the code: nothing after it runs."""


class Mortal:
    """Counts the steps that change something, and dies before or after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, targets: list[tuple[type, str]], dies_at: int) -> None:
        self.step, self._dies_at = 0, dies_at
        for owner, name in targets:
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, original):  # type: ignore[no-untyped-def]
        def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
            self._tick()
            result = original(*args, **kwargs)
            self._tick()
            return result

        return counted

    def _tick(self) -> None:
        self.step += 1
        if self.step == self._dies_at:
            raise Killed


class Local:
    """A kind of device that shows one file."""

    name = "local"

    def __init__(self, file: Path) -> None:
        self._file = file

    def find(self, volume: VolumeId) -> Path:
        return self._file


STEPS = [(NodeImages, "replace_key_record"), (Luks, "add_key"), (Luks, "remove_key")]


def test_a_rotation_that_was_killed_between_any_two_steps_is_finished_by_the_next(setting: Setting, tmp_path: Path) -> None:
    volume, luks, passphrase = VolumeId.parse(setting.create("kv")), Luks(Commands()), SECRET["encryptionPassphrase"]
    setting.write_header(str(volume), tmp_path)
    device = setting.header(str(volume), tmp_path)
    rotation = Rotation(setting.images, setting.keys, [Local(device)], luks, setting.errand)  # type: ignore[list-item]
    deaths, survived = 0, False
    while not survived:
        (before, *_) = setting.found_keys(str(volume))
        with pytest.MonkeyPatch.context() as patch:
            Mortal(patch, list(STEPS), deaths + 1)
            try:
                rotation.rotate(volume, passphrase)
                survived = True
            except Killed:
                deaths += 1
        held = setting.found_keys(str(volume))
        assert any(luks.opens(device, key) for key in held), f"after death {deaths}"
        rotation.rotate(volume, passphrase)
        (now,) = setting.found_keys(str(volume))
        assert (luks.opens(device, now), luks.opens(device, before), now != before) == (True, False, True)
    assert deaths == 2 * len([*STEPS, "a second record", "a third record"])


def test_the_command_line_rotates_the_key_of_a_volume_that_nobody_has_open(setting: Setting, tmp_path: Path) -> None:
    volume = setting.create("kv")
    setting.write_header(volume, tmp_path)
    (before,) = setting.found_keys(volume)
    words = [str(PROGRAM), "--config", str(setting.program_config(tmp_path)), "rotate-key", volume, "--mounter", "fuse"]
    words += ["--run-directory", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (now,) = setting.found_keys(volume)
    assert (now != before, setting.opens(volume, tmp_path)) == (True, [True])
    assert before not in done.stdout + done.stderr
    assert now not in done.stdout + done.stderr
    with setting.ceph.open_image(volume.rpartition("/")[2]):
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "is in use by" in done.stderr) == (1, True), done.stderr


def _record(setting: Setting, volume: str) -> dict[str, dict[str, list[str]]]:
    """The image's record of the nodes that have it."""
    raw = setting.ceph.image_metadata(volume.rpartition("/")[2]).get("ceph-provisioner.attachments", "")
    found: dict[str, dict[str, list[str]]] = json.loads(raw)["nodes"] if raw else {}
    return found


def test_a_rotation_records_its_client_before_it_writes_and_no_node_gets_the_volume_meanwhile(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, passphrase = setting.create("kv"), SECRET["encryptionPassphrase"]
    setting.write_header(volume, tmp_path)
    setting.driver.attachments.enrol_node("dev", Node("a-node", ("192.0.2.1",)))
    request = csi_pb2.ControllerPublishVolumeRequest(volume_id=volume, node_id="a-node", volume_capability=capability())
    seen: list[tuple[list[str], bool]] = []
    add_key = Luks.add_key

    def looked_at(self: Luks, device: Path, old: str, new: str) -> None:
        ((node, entry),) = _record(setting, volume).items()
        watching = setting.ceph.watchers(f"rbd_header.{setting.opening(volume).image_id}")
        seen.append((entry["clients"], any(entry["clients"][0] in address for address in watching)))
        with refused(grpc.StatusCode.FAILED_PRECONDITION, node):
            setting.driver.controller.ControllerPublishVolume(request, timeout=30)
        add_key(self, device, old, new)

    monkeypatch.setattr(Luks, "add_key", looked_at)
    rotation = key_rotation(setting.images, setting.keys, setting.driver.attachments, tmp_path, "fuse")
    rotation.rotate(VolumeId.parse(volume), passphrase)
    assert [(len(clients), watching) for clients, watching in seen] == [(1, True)]
    assert (_record(setting, volume), setting.opens(volume, tmp_path)) == ({}, [True])
    assert [node.id for node in setting.driver.attachments.nodes("dev") if node.id.startswith("rotate-key")] == []
    setting.driver.controller.ControllerPublishVolume(request, timeout=30)
    with pytest.raises(InUse, match="a-node"):
        rotation.rotate(VolumeId.parse(volume), passphrase)


def test_a_rotation_that_was_killed_is_fenced_and_finished_by_the_next_wherever_that_is(setting: Setting, tmp_path: Path) -> None:
    volume = setting.create("kv")
    setting.write_header(volume, tmp_path)
    words = [str(PROGRAM), "--config", str(setting.program_config(tmp_path)), "rotate-key", volume, "--mounter", "fuse"]
    first = subprocess.Popen([*words, "--run-directory", str(tmp_path / "one")], stderr=subprocess.DEVNULL)
    until(lambda: any(entry["clients"] for entry in _record(setting, volume).values()), 60, "it has recorded its client")
    first.kill()
    first.wait(10)
    ((_, entry),) = _record(setting, volume).items()
    try:
        done = subprocess.run(
            [*words, "--run-directory", str(tmp_path / "two")], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert set(entry["clients"]) <= blocklisted(setting.ceph)
        assert (_record(setting, volume), setting.opens(volume, tmp_path)) == ({}, [True])
    finally:
        commands = Commands()
        FuseDevices(tmp_path / "one" / "fuse", commands, Mounts(commands)).detach(VolumeId.parse(volume))


def test_a_snapshot_of_before_a_rotation_is_restored_with_the_key_of_then(setting: Setting, tmp_path: Path) -> None:
    volume, passphrase = setting.create("kv"), SECRET["encryptionPassphrase"]
    setting.write_header(volume, tmp_path)
    snapshot = setting.driver.snapshot(volume).snapshot_id
    device = setting.header(volume, tmp_path)
    rotation = Rotation(setting.images, setting.keys, [Local(device)], Luks(Commands()), setting.errand)  # type: ignore[list-item]
    rotation.rotate(VolumeId.parse(volume), passphrase)
    source = csi_pb2.VolumeContentSource.SnapshotSource(snapshot_id=snapshot)
    restored = setting.create("kv", volume_content_source=csi_pb2.VolumeContentSource(snapshot=source))
    assert setting.opens(restored, tmp_path) == [False, True]


def test_a_new_passphrase_wraps_the_key_from_a_rotation_on(setting: Setting, tmp_path: Path) -> None:
    volume, old = VolumeId.parse(setting.create("metadata")), SECRET["encryptionPassphrase"]
    setting.write_header(str(volume), tmp_path)
    device, luks = setting.header(str(volume), tmp_path), Luks(Commands())
    rotation = Rotation(setting.images, setting.keys, [Local(device)], luks, setting.errand)  # type: ignore[list-item]
    for _ in range(2):
        rotation.rotate(volume, old, "another")
    (key,) = setting.keys.find(setting.opening(str(volume)), "another")
    assert luks.opens(device, key)


def test_a_passphrase_that_is_the_key_itself_is_replaced_and_a_repeat_is_fine(setting: Setting, tmp_path: Path) -> None:
    volume = VolumeId.parse(setting.driver.create(size=64 * MIB, parameters={"pool": setting.ceph.pool}).volume_id)
    device, luks = tmp_path / "device", Luks(Commands())
    with device.open("wb") as made:
        made.truncate(64 * MIB)
    luks.format(device, Encryption("old"), "old")
    rotation = Rotation(setting.images, setting.keys, [Local(device)], luks, setting.errand)  # type: ignore[list-item]
    for _ in range(2):
        rotation.rotate(volume, "old", "new")
    assert [luks.opens(device, key) for key in ("old", "new")] == [False, True]


def test_another_kms_than_the_one_that_has_the_key_is_a_different_volume(setting: Setting) -> None:
    volume = setting.create("kv")
    with refused(grpc.StatusCode.ALREADY_EXISTS, "kv", "transit"):
        setting.create("transit", name=volume.rpartition("/")[2])


def test_the_record_is_one_that_a_clone_inherits(setting: Setting) -> None:
    volume = setting.create("kv")
    assert KEYS in setting.ceph.image_metadata(volume.rpartition("/")[2])
    assert replace(setting.record(volume), coming="x").all[-1] == "x"
