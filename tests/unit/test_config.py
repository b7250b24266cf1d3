"""The config file: errors name the file and the key; a changed file is read again, a bad change is not taken. Takes a second."""

import logging
import os
from pathlib import Path

import pytest

from provisioner.ceph.cluster import ClusterConfig
from provisioner.cinder.cloud import CloudConfig
from provisioner.config import ConfigFile, parse, parse_all
from provisioner.core.errors import InvalidRequest

GOOD = "clusters: {dev: {conf: /etc/ceph/ceph.conf, user: provisioner, keyring: /etc/ceph/keyring}}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def _replace(path: Path, text: str) -> None:
    """As Kubernetes does with a mounted Secret: another file under the same name."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


def test_the_least_config_is_read(path: Path) -> None:
    path.write_text(GOOD)
    expected = ClusterConfig("dev", "/etc/ceph/ceph.conf", (), "provisioner", "/etc/ceph/keyring", "", 15)
    assert parse(path) == {"dev": expected}


def test_every_key_is_read(path: Path) -> None:
    path.write_text(
        "clusters: {a: {monitors: ['10.0.0.1:6789'], user: client.x, keyFile: /key, timeout: 3, segments: {zone: z}}}"
    )
    expected = ClusterConfig("a", "", ("10.0.0.1:6789",), "x", "", "/key", 3, segments=(("zone", "z"),))
    assert parse(path) == {"a": expected}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("clusters: {dev: {conf: /c, keyRing: /k}}", ["keyRing", "clusters"]),
        ("clusters: {dev: {conf: /c}}\nlisten: 1", ["listen"]),
        ("clusters: {dev: {conf: 7}}", ["conf"]),
        ("clusters: {dev: {conf: /c, timeout: soon}}", ["timeout"]),
        ("clusters: {dev: {conf: /c, timeout: 0}}", ["clusters.dev.timeout", "0"]),
        ("clusters: {dev: {conf: /c, timeout: 601}}", ["clusters.dev.timeout", "601"]),
        ("clusters: {dev: {user: x}}", ["clusters.dev", "conf", "monitors"]),
        ("clusters: {dev: {conf: /c, keyring: /k, keyFile: /f}}", ["clusters.dev.keyFile", "/f"]),
        ("clusters: {a/b: {conf: /c}}", ["clusters.a/b"]),
        ("clusters: {a: {conf: /c}}\nkms: {v: {encryptionKMSType: aws}}", ["kms", "encryptionKMSType"]),
        ("clusters: {a: {conf: /c}}\nkms: {v: {encryptionKMSType: vault}}", ["kms.v.vaultAddress"]),
        ("clusters: {a: {conf: /c}}\nkms: {v: {encryptionKMSType: vault, vaultAddress: 'http://v'}}", ["kms.v.vaultRole"]),
        ("clusters: {a: {conf: /c}}\nkms: {v: {encryptionKMSType: metadata, vaultAddr: x}}", ["kms", "vaultAddr"]),
        ("clusters: {a@b: {conf: /c}}", ["clusters.a@b"]),
        ("clusters: {}", ["clusters"]),
        ("clusters: [dev]", ["clusters"]),
        ("{}", ["clusters"]),
        ("", []),
        ("clusters: {dev: {conf: /c", ["line 1"]),
        ("just words", []),
    ],
)
def test_a_bad_file_is_refused_naming_file_and_key(path: Path, text: str, told: list[str]) -> None:
    path.write_text(text)
    with pytest.raises(InvalidRequest) as refused:
        parse(path)
    assert all(word in str(refused.value) for word in [str(path), *told]), str(refused.value)


def test_a_missing_file_is_refused_by_name(path: Path) -> None:
    with pytest.raises(InvalidRequest, match=f"{path}.*No such file"):
        parse(path)


def test_a_program_does_not_start_with_a_bad_file(path: Path) -> None:
    path.write_text("clusters: {}")
    with pytest.raises(InvalidRequest):
        ConfigFile(path)


def test_a_changed_file_is_read_again(path: Path) -> None:
    path.write_text(GOOD)
    config = ConfigFile(path)
    _replace(path, GOOD.replace("dev", "other"))
    assert list(config.clusters()) == ["other"]


@pytest.mark.parametrize("bad", ["clusters: {}", "clusters: {dev: {conf: /c, colour: red}}", "{{{"])
def test_a_bad_change_keeps_what_was_and_says_so(path: Path, bad: str, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(GOOD)
    config = ConfigFile(path)
    before = dict(config.clusters())
    _replace(path, bad)
    with caplog.at_level(logging.ERROR):
        assert config.clusters() == before
        assert config.clusters() == before
    (said,) = caplog.messages
    assert str(path) in said


def test_a_removed_file_keeps_what_was(path: Path) -> None:
    path.write_text(GOOD)
    config = ConfigFile(path)
    path.unlink()
    assert list(config.clusters()) == ["dev"]


def test_a_file_that_is_good_again_is_taken(path: Path) -> None:
    path.write_text(GOOD)
    config = ConfigFile(path)
    _replace(path, "{{{")
    assert list(config.clusters()) == ["dev"]
    _replace(path, GOOD.replace("dev", "other"))
    assert list(config.clusters()) == ["other"]


def test_clouds_stand_beside_clusters_or_alone(path: Path) -> None:
    path.write_text("clouds: {a: {endpoint: 'http://c/v3', project: p}, b: {cloud: main, file: /f, wwpns: ['21000024FF30441C']}}")
    known = parse_all(path)
    assert known.clusters == {}
    assert known.clouds["a"] == CloudConfig("a", endpoint="http://c/v3", project="p")
    assert known.clouds["b"] == CloudConfig("b", cloud="main", file="/f", wwpns=("21000024FF30441C",))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{clusters: {a: {conf: /c}}, clouds: {a: {}}}", "clouds.a: is a cluster's name too"),
        ("{clouds: {a/b: {}}}", "must not be empty nor hold"),
        ("{clouds: {a: {endpoint: x, cloud: y}}}", r"clouds.a.endpoint 'x': is of a Cinder without Keystone"),
        ("{clouds: {a: {timeout: 0}}}", r"clouds.a.timeout '0': must be between 1 and 600"),
        ("{clouds: {a: {password: x}}}", "unknown field `password`"),
    ],
)
def test_a_wrong_cloud_is_named(path: Path, text: str, told: str) -> None:
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=told):
        parse_all(path)


def test_a_kms_is_read_by_the_names_that_users_of_ceph_csi_know(path: Path) -> None:
    text = "vaultAddress: https://v:8200, vaultRole: csi, vaultAuthPath: v1/auth/k/login, vaultPassphrasePath: csi/, timeout: 3"
    path.write_text(f"{GOOD}\nkms: {{safe: {{encryptionKMSType: vault, {text}, vaultCAVerify: false}}}}")
    config = ConfigFile(path).kms()["safe"]
    assert (config.kind, config.address, config.role, config.verify) == ("vault", "https://v:8200", "csi", False)
    assert (config.mount, config.key_path, config.auth_path, config.timeout) == ("secret", "csi/", "v1/auth/k/login", 3)
