"""StorageClass parameters: both predecessors' names, one schema, and a refusal by name for whatever can't be honoured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.core import qos
from provisioner.core.errors import InvalidRequest
from provisioner.core.model import FEATURES
from provisioner.core.parameters import FS_TYPES, GivenUser, SecretRef, read_parameters

OF_CEPH_CSI = {
    "clusterID": "dev",
    "pool": "fast",
    "dataPool": "cold",
    "radosNamespace": "tenant",
    "imageFeatures": "layering, exclusive-lock",
    "stripeUnit": "65536",
    "stripeCount": "8",
    "objectSize": "4194304",
    "mkfsOptions": "-m0",
    "mapOptions": "krbd:rxbounce",
    "unmapOptions": "krbd:force",
    "mounter": "rbd-nbd",
    "csi.storage.k8s.io/fstype": "xfs",
    "csi.storage.k8s.io/provisioner-secret-name": "admin",
    "csi.storage.k8s.io/provisioner-secret-namespace": "ceph",
    "csi.storage.k8s.io/node-stage-secret-name": "node",
    "csi.storage.k8s.io/node-stage-secret-namespace": "ceph",
    "pvType": "csi",
}
OF_CEPH_COM_RBD = {
    "monitors": "10.0.0.1:6789,10.0.0.2:6789",
    "pool": "kube",
    "adminId": "kube-admin",
    "adminSecretName": "ceph-admin-secret",
    "adminSecretNamespace": "kube-system",
    "userId": "kube",
    "userSecretName": "ceph-user-secret",
    "userSecretNamespace": "kube-system",
    "imageFormat": "2",
    "imageFeatures": "layering",
    "fsType": "ext4",
}


def refusal_of(parameters: dict[str, str]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_parameters(parameters)
    return caught.value


class TestNamesOfCephCsi:
    def test_every_layout_parameter_is_honoured(self) -> None:
        layout = read_parameters(OF_CEPH_CSI).layout
        assert layout.features == {"layering", "exclusive-lock"}
        assert (layout.data_pool, layout.object_size, layout.stripe_unit, layout.stripe_count) == ("cold", 4194304, 65536, 8)

    def test_place_and_file_system_are_honoured(self) -> None:
        read = read_parameters(OF_CEPH_CSI)
        assert (read.cluster, read.pool, read.namespace, read.fs_type) == ("dev", "fast", "tenant", "xfs")

    def test_what_a_node_does_with_the_volume_is_passed_on(self) -> None:
        assert read_parameters(OF_CEPH_CSI).on_nodes == {
            "mkfsOptions": "-m0",
            "mapOptions": "krbd:rxbounce",
            "unmapOptions": "krbd:force",
            "mounter": "rbd-nbd",
        }

    def test_the_provisioner_secret_is_what_we_work_with(self) -> None:
        assert read_parameters(OF_CEPH_CSI).admin == SecretRef("ceph", "admin")

    def test_the_other_secrets_are_passed_on_by_use(self) -> None:
        assert read_parameters(OF_CEPH_CSI).secrets["node-stage"] == SecretRef("ceph", "node")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("clusterID", "dev"), ("pool", "p"), ("dataPool", "ec"), ("radosNamespace", "ns"), ("imageFeatures", "layering")),
            *(("mkfsOptions", "-m0"), ("mapOptions", "krbd:noshare"), ("unmapOptions", "krbd:force"), ("mounter", "rbd-nbd")),
            *(("tryOtherMounters", "true"), ("topologyConstrainedPools", ""), ("objectSize", "4194304")),
            *(("encrypted", "false"), ("thickProvision", "false"), ("csi.storage.k8s.io/fstype", "xfs")),
            *((name, "1") for name in qos.NAMES if name.startswith(("base", "max"))),
        ],
    )
    def test_each_that_means_something_here_is_accepted(self, name: str, value: str) -> None:
        assert read_parameters({"pvType": "csi", name: value})

    def test_nodes_are_told_to_encrypt_and_how(self) -> None:
        how = {"encryptionCipher": "aes-xts-plain64", "encryptionKeySize": "256", "encryptionSectorSize": "4096"}
        how |= {"integrityMode": "hmac-sha256", "encryptionKMSID": "vault"}
        told = read_parameters({"pvType": "csi", "encrypted": "true", **how}).on_nodes
        assert told == {"encrypted": "true", **how}

    @pytest.mark.parametrize(
        "use",
        [
            *("provisioner", "controller-expand", "controller-publish", "controller-modify"),
            *("node-stage", "node-publish", "node-expand"),
        ],
    )
    def test_each_secret_is_accepted(self, use: str) -> None:
        names = {f"csi.storage.k8s.io/{use}-secret-{part}": part for part in ("name", "namespace")}
        assert read_parameters({"pvType": "csi", **names}).secrets[use] == SecretRef("namespace", "name")

    @pytest.mark.parametrize(("said", "told"), [("true", "auto"), ("TRUE", "auto"), ("false", "rbd")])
    def test_trying_other_mounters_is_for_the_node_to_choose(self, said: str, told: str) -> None:
        read = read_parameters({"pvType": "csi", "mounter": "rbd", "tryOtherMounters": said})
        assert read.on_nodes == {"mounter": told}


class TestNamesOfCephComRbd:
    def test_the_admin_secret_is_what_we_work_with_as_its_user(self) -> None:
        read = read_parameters(OF_CEPH_COM_RBD)
        assert (read.admin, read.admin_user) == (SecretRef("kube-system", "ceph-admin-secret"), "kube-admin")

    def test_the_user_of_the_class_is_handed_out(self) -> None:
        expected = GivenUser("kube", SecretRef("kube-system", "ceph-user-secret"))
        assert read_parameters(OF_CEPH_COM_RBD).given_user == expected

    def test_monitors_are_read_as_a_list(self) -> None:
        assert read_parameters(OF_CEPH_COM_RBD).monitors == ("10.0.0.1:6789", "10.0.0.2:6789")

    def test_fs_type_is_an_alias(self) -> None:
        assert read_parameters({"fsType": "xfs"}).fs_type == "xfs"

    def test_the_user_secret_lies_with_the_claim_unless_said_otherwise(self) -> None:
        read = read_parameters({"userId": "kube", "userSecretName": "mine"})
        assert read.given_user == GivenUser("kube", SecretRef("", "mine"))

    def test_the_admin_secret_lies_in_default_unless_said_otherwise(self) -> None:
        assert read_parameters({"adminSecretName": "admin"}).admin == SecretRef("default", "admin")

    def test_the_user_is_the_admin_unless_said_otherwise(self) -> None:
        read = read_parameters({"adminId": "boss", "adminSecretName": "a", "userSecretName": "u"})
        assert read.given_user is not None
        assert read.given_user.user == "boss"


class TestDefaults:
    def test_nothing_said_is_a_native_ext4_volume_in_pool_rbd(self) -> None:
        read = read_parameters({})
        assert (read.cluster, read.pool, read.namespace, read.pv_type, read.fs_type) == ("", "rbd", "", "native", "ext4")

    def test_nothing_said_has_every_feature_that_the_kernel_maps(self) -> None:
        assert read_parameters({}).layout.features == set(FEATURES)

    def test_nothing_said_brings_no_user(self) -> None:
        read = read_parameters({})
        assert (read.admin, read.given_user) == (None, None)


class TestCase:
    @given(st.sampled_from([OF_CEPH_CSI, OF_CEPH_COM_RBD]), st.randoms(use_true_random=False))
    def test_case_of_names_does_not_matter(self, parameters, random) -> None:
        spelled = {"".join(random.choice((c.upper(), c.lower())) for c in name): value for name, value in parameters.items()}
        assert read_parameters(spelled) == read_parameters(parameters)

    def test_the_same_parameter_twice_with_one_value_is_one(self) -> None:
        assert read_parameters({"fstype": "xfs", "csi.storage.k8s.io/fstype": "xfs"}).fs_type == "xfs"

    def test_the_same_parameter_twice_with_two_values_is_refused(self) -> None:
        error = refusal_of({"csi.storage.k8s.io/fstype": "xfs", "fsType": "ext4"})
        assert error.field == "parameters.fsType"
        assert "'xfs'" in str(error)


class TestRefusals:
    def test_an_unknown_parameter_is_refused_with_the_known_ones(self) -> None:
        error = refusal_of({"pol": "rbd"})
        assert (error.field, error.value) == ("parameters.pol", "rbd")
        assert "pool" in error.why
        assert "userSecretName" in error.why

    @pytest.mark.parametrize(
        ("field", "parameters"),
        [
            ("volumeNamePrefix", {"volumeNamePrefix": "x-"}),
            ("encrypted", {"encrypted": "true"}),
            ("topologyConstrainedPools", {"topologyConstrainedPools": "[{}]"}),
            ("maxIops", {"maxIops": "100"}),
            ("encrypted", {"encrypted": "yes"}),
            ("encryptionType", {"encryptionType": "block"}),
            ("encryptionKMSID", {"encryptionKMSID": "vault"}),
            ("encryptionSectorSize", {"encryptionSectorSize": "4096"}),
            ("encryptionCipher", {"encryptionCipher": "aes-xts-plain64"}),
            ("encryptionKeySize", {"encryptionKeySize": "512"}),
            ("encryptionKeySize", {"encryptionKeySize": "many", "encrypted": "true", "pvType": "csi"}),
            ("encryptionSectorSize", {"encryptionSectorSize": "1000", "encrypted": "true", "pvType": "csi"}),
            ("encryptionCipher", {"encryptionCipher": "rot13", "encrypted": "true", "pvType": "csi"}),
            ("integrityMode", {"integrityMode": "crc32", "encrypted": "true", "pvType": "csi"}),
            ("encryptionType", {"encryptionType": "file", "encrypted": "true", "pvType": "csi"}),
            ("encrypted", {"encrypted": "true", "pvType": "auto"}),
            ("mapOptions", {"mapOptions": "krbd:typo", "pvType": "csi"}),
            ("mapOptions", {"mapOptions": "noshare", "mounter": "fuse", "pvType": "csi"}),
            ("unmapOptions", {"unmapOptions": "krbd:harder", "pvType": "csi"}),
            ("integrityMode", {"integrityMode": "hmac-sha256"}),
            ("cephLogDir", {"cephLogDir": "/var/log/ceph"}),
            ("cephLogStrategy", {"cephLogStrategy": "remove"}),
            ("snapshotNamePrefix", {"snapshotNamePrefix": "snap-"}),
            ("flattenMode", {"flattenMode": "force"}),
            ("mounter", {"mounter": "nbd", "pvType": "csi"}),
            ("tryOtherMounters", {"mounter": "rbd-nbd", "tryOtherMounters": "true", "pvType": "csi"}),
            ("tryOtherMounters", {"tryOtherMounters": "maybe", "pvType": "csi"}),
            ("thickProvision", {"thickProvision": "true"}),
            ("imageFormat", {"imageFormat": "1"}),
            ("pvType", {"pvType": "nbd"}),
            ("csi.storage.k8s.io/fstype", {"fsType": "zfs"}),
            ("objectSize", {"objectSize": "4M"}),
            ("objectSize", {"objectSize": "-4096"}),
            ("objectSize", {"objectSize": "²"}),
            ("stripeCount", {"stripeUnit": "4096", "stripeCount": "1.5"}),
            ("adminId", {"adminId": "admin"}),
            ("adminSecretNamespace", {"adminSecretNamespace": "kube-system"}),
            ("userId", {"userId": "kube"}),
            ("userSecretNamespace", {"userSecretNamespace": "kube-system"}),
            ("adminSecretName", {"adminSecretName": "a", "csi.storage.k8s.io/provisioner-secret-name": "b"}),
            ("csi.storage.k8s.io/node-stage-secret-name", {"csi.storage.k8s.io/node-stage-secret-name": "lonely"}),
        ],
    )
    def test_a_value_that_cannot_be_honoured_is_refused_by_name(self, field: str, parameters: dict[str, str]) -> None:
        if "csi.storage.k8s.io/provisioner-secret-name" in parameters:
            parameters = {**parameters, "csi.storage.k8s.io/provisioner-secret-namespace": "ceph"}
        assert refusal_of(parameters).field == f"parameters.{field}"

    def test_templates_of_secret_names_are_refused(self) -> None:
        error = refusal_of(
            {
                "csi.storage.k8s.io/node-stage-secret-name": "${pvc.name}",
                "csi.storage.k8s.io/node-stage-secret-namespace": "ceph",
            }
        )
        assert "templates" in error.why

    @pytest.mark.parametrize(
        ("field", "parameters"),
        [
            ("imageFeatures", {"imageFeatures": "journaling,exclusive-lock"}),
            ("imageFeatures", {"imageFeatures": "layring"}),
            ("imageFeatures", {"imageFeatures": "fast-diff"}),
            ("objectSize", {"objectSize": "3000000"}),
            ("objectSize", {"objectSize": "67108864"}),
            ("stripeUnit", {"stripeUnit": "65536"}),
            ("stripeUnit", {"stripeUnit": "100000", "stripeCount": "2"}),
            ("stripeCount", {"stripeUnit": "65536", "stripeCount": "100000"}),
        ],
    )
    def test_a_layout_that_cannot_be_made_is_refused_by_name(self, field: str, parameters: dict[str, str]) -> None:
        assert refusal_of(parameters).field.endswith(field)

    @pytest.mark.parametrize("name", ["radosNamespace", "mkfsOptions", "mapOptions", "unmapOptions", "mounter"])
    def test_what_a_native_volume_cannot_carry_is_refused(self, name: str) -> None:
        error = refusal_of({"pvType": "native", name: "rbd"})
        assert error.field == f"parameters.{name}"
        assert "csi" in error.why

    @given(st.dictionaries(st.sampled_from([*OF_CEPH_CSI, *OF_CEPH_COM_RBD, "pol"]), st.text(max_size=12), max_size=6))
    def test_any_values_are_read_or_refused_by_field(self, parameters: dict[str, str]) -> None:
        try:
            outcome = read_parameters(parameters).fs_type in FS_TYPES
        except InvalidRequest as error:
            outcome = bool(error.field)
        assert outcome
