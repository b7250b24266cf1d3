"""Node requests read into the host's words. Takes no time."""

import pytest

from csi.node import publish_request, stage_request
from csi.pb import csi_pb2
from provisioner.core.encryption import Encryption
from provisioner.core.errors import InvalidRequest, NotFound
from provisioner.core.model import Credentials
from provisioner.host.filesystem import Wanted

Capability = csi_pb2.VolumeCapability
Mode = Capability.AccessMode


def stage(
    mode: int = Mode.SINGLE_NODE_WRITER, mount: Capability.MountVolume | None = None, **fields: object
) -> csi_pb2.NodeStageVolumeRequest:
    how = Capability(access_mode=Mode(mode=mode), mount=mount or Capability.MountVolume())
    given = {"volume_id": "dev/rbd/a", "staging_target_path": "/s", "volume_capability": how} | fields
    return csi_pb2.NodeStageVolumeRequest(**given)


@pytest.mark.parametrize("missing", ["volume_id", "staging_target_path", "volume_capability"])
def test_a_field_that_is_missing_is_named(missing: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        stage_request(stage(**{missing: None}))
    assert caught.value.field == missing


def test_an_id_that_names_nothing_is_not_found() -> None:
    with pytest.raises(NotFound):
        stage_request(stage(volume_id="nothing"))


def test_the_capability_wins_over_the_class_and_the_class_over_the_default() -> None:
    xfs = Capability.MountVolume(fs_type="xfs", mount_flags=["noatime"])
    context = {"fsType": "btrfs", "mkfsOptions": "-L x", "mounter": "fuse", "mapOptions": "krbd:a"}
    read = stage_request(stage(mount=xfs, volume_context=context))
    assert read.file_system == Wanted("xfs", "-L x")
    assert (read.flags, read.mounter, read.map_options) == (("noatime",), "fuse", "krbd:a")
    assert stage_request(stage(volume_context=context)).file_system == Wanted("btrfs", "-L x")
    assert stage_request(stage()).file_system == Wanted("", "")


def test_secrets_become_credentials_that_do_not_show() -> None:
    read = stage_request(stage(secrets={"userID": "client.u", "userKey": "K=="}))
    assert read.credentials == Credentials("u", "K==")
    assert "K==" not in repr(read)


@pytest.mark.parametrize("flag", ["bind", "remount", "loop=/dev/loop0", "helper=x", "a\nb"])
def test_a_flag_that_does_something_else_than_mounting_is_refused(flag: str) -> None:
    with pytest.raises(InvalidRequest, match="mount_flags"):
        stage_request(stage(mount=Capability.MountVolume(mount_flags=[flag])))


@pytest.mark.parametrize(("mode", "reads"), [(Mode.MULTI_NODE_READER_ONLY, True), (Mode.SINGLE_NODE_MULTI_WRITER, False)])
def test_readers_get_a_volume_to_read(mode: int, *, reads: bool) -> None:
    assert stage_request(stage(mode)).read_only is reads


def test_a_file_system_for_writers_on_several_nodes_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="block"):
        stage_request(stage(Mode.MULTI_NODE_MULTI_WRITER))


def test_a_single_writer_is_to_be_alone() -> None:
    how = Capability(access_mode=Mode(mode=Mode.SINGLE_NODE_SINGLE_WRITER), block=Capability.BlockVolume())
    fields = {"volume_id": "dev/rbd/a", "staging_target_path": "/s", "target_path": "/t", "volume_capability": how}
    read = publish_request(csi_pb2.NodePublishVolumeRequest(**fields, readonly=True))
    assert (read.alone, read.block, read.read_only) == (True, True, True)


def test_an_encrypted_volume_is_read_with_its_passphrase_and_its_cipher() -> None:
    context = {"encrypted": "true", "encryptionKeySize": "256"}
    read = stage_request(stage(volume_context=context, secrets={"encryptionPassphrase": "hunter2"}))
    assert read.encryption == Encryption("hunter2", key_size=256)
    assert "hunter2" not in repr(read)
    assert stage_request(stage(volume_context={"encrypted": "false"})).encryption is None
    for wrong in ({"secrets": {}}, {"volume_context": {**context, "encryptionKeySize": "many"}}):
        with pytest.raises(InvalidRequest):
            stage_request(stage(**{"volume_context": context, "secrets": {"encryptionPassphrase": "x"}, **wrong}))


def test_an_selinux_context_reaches_the_mount_as_it_is() -> None:
    context = 'context="system_u:object_r:container_file_t:s0:c1,c2"'
    mount = csi_pb2.VolumeCapability.MountVolume(mount_flags=[context, "noatime"])
    mode = csi_pb2.VolumeCapability.AccessMode(mode=csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_WRITER)
    read = stage_request(stage(volume_capability=csi_pb2.VolumeCapability(mount=mount, access_mode=mode)))
    assert read.flags == (context, "noatime")
