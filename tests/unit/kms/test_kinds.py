"""Each kind of KMS gives back what it took in, to the image that it was for, and says what is wrong. A few seconds.

Vault is a stand-in for its HTTP API (tests/harness/vault.py).
"""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.core.errors import Denied, InvalidRequest, Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Credentials, Opening
from provisioner.kms.build import KeyServices
from provisioner.kms.sealed import SealedKeys
from provisioner.kms.settings import KmsConfig
from provisioner.kms.vault import KeptFor, VaultKeys
from tests.harness import vault as stand_in
from tests.harness.vault import ACCOUNT_TOKEN, ROLE, Vault

KEY = "c2VjcmV0IGtleSBvZiBhIHZvbHVtZQ=="


PLACE = Place("dev", "rbd")


def image(image_id: str = "1a2b", place: Place = PLACE) -> Opening:
    return Opening(VolumeId(place, "pvc-1"), "fsid-1", image_id, 1 << 30, (), Credentials("u", "k"))


@pytest.fixture
def vault() -> Iterator[Vault]:
    with stand_in.vault() as made:
        yield made


@pytest.fixture
def configs(vault: Vault, tmp_path: Path) -> dict[str, KmsConfig]:
    (tmp_path / "account").write_text(ACCOUNT_TOKEN + "\n")
    of_vault = KmsConfig(
        "kv",
        "vault",
        address=vault.address,
        key_path="ceph-provisioner/",
        auth_path="/v1/auth/kubernetes/login",
        role=ROLE,
        service_account_token_file=str(tmp_path / "account"),
        timeout=2,
    )
    transit = replace(of_vault, name="transit", kind="vaulttransit", transit_key="volumes", key_path="")
    return {"metadata": KmsConfig("metadata", "metadata"), "kv": of_vault, "transit": transit}


@pytest.mark.parametrize("kind", ["metadata", "kv", "transit"])
def test_what_was_wrapped_is_unwrapped_and_the_token_does_not_tell_it(configs: dict[str, KmsConfig], kind: str) -> None:
    kms = KeyServices(lambda: configs).get(kind)
    token = kms.wrap(KEY, image(), "a passphrase")
    assert kms.unwrap(token, "1a2b", "a passphrase") == KEY
    assert KEY not in token
    assert token.isascii()
    assert " " not in token
    assert kms.wrap(KEY, image(), "a passphrase") != token


@pytest.mark.parametrize("kind", ["metadata", "transit"])
def test_a_token_that_was_copied_onto_another_image_does_not_open(configs: dict[str, KmsConfig], kind: str) -> None:
    kms = KeyServices(lambda: configs).get(kind)
    token = kms.wrap(KEY, image(), "a passphrase")
    with pytest.raises(Denied, match=configs[kind].name):
        kms.unwrap(token, "another", "a passphrase")


def test_a_sealed_key_opens_with_its_passphrase_only() -> None:
    kms = SealedKeys(KmsConfig("m", "metadata"))
    token = kms.wrap(KEY, image(), "right")
    with pytest.raises(Denied, match="passphrase is wrong") as caught:
        kms.unwrap(token, "1a2b", "wrong")
    assert "wrong" not in str(caught.value).replace("passphrase is wrong", "")
    for damaged in ("", "no base64!", "AQ==", token[:-8] + "AAAAAAA="):
        with pytest.raises(Denied):
            kms.unwrap(damaged, "1a2b", "right")


def test_a_passphrase_file_stands_for_the_secrets(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    kms = SealedKeys(KmsConfig("m", "metadata", passphrase_file=str(file)))
    with pytest.raises(Unavailable, match=str(file)):
        kms.wrap(KEY, image(), "")
    file.write_text("from the file\n")
    token = kms.wrap(KEY, image(), "of a secret")
    assert SealedKeys(KmsConfig("m", "metadata")).unwrap(token, "1a2b", "from the file") == KEY
    with pytest.raises(InvalidRequest, match="encryptionPassphrase"):
        SealedKeys(KmsConfig("m", "metadata")).wrap(KEY, image(), "")


def test_a_key_in_vault_tells_its_image_by_its_path(vault: Vault, configs: dict[str, KmsConfig]) -> None:
    kms = VaultKeys(configs["kv"])
    odd = Place("dev", "a pool/ü", "tenant~1")
    tokens = [kms.wrap(KEY, image(), ""), kms.wrap(KEY, image("3c"), ""), kms.wrap(KEY, image("5e", odd), "")]
    vault.secrets["ceph-provisioner/what others/keep"] = {"x": "y"}
    assert dict(kms.kept()) == {
        tokens[0]: KeptFor("fsid-1", "rbd", "", "1a2b"),
        tokens[1]: KeptFor("fsid-1", "rbd", "", "3c"),
        tokens[2]: KeptFor("fsid-1", "a pool/ü", "tenant~1", "5e"),
    }
    for _ in range(2):
        kms.forget(tokens[1])
    assert {image.image_id for _, image in kms.kept()} == {"1a2b", "5e"}
    with pytest.raises(Denied, match="nothing at that path"):
        kms.unwrap(tokens[1], "3c", "")


def test_one_login_serves_until_vault_refuses_it(vault: Vault, configs: dict[str, KmsConfig]) -> None:
    kms = KeyServices(lambda: configs).get("transit")
    tokens = [kms.wrap(KEY, image(), "") for _ in range(3)]
    assert vault.logins == 1
    vault.tokens.clear()
    assert kms.unwrap(tokens[0], "1a2b", "") == KEY
    assert vault.logins == 2


def test_a_token_from_a_file_needs_no_login(vault: Vault, configs: dict[str, KmsConfig], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("root")
    vault.tokens.add("root")
    kms = VaultKeys(replace(configs["kv"], role="", token_file=str(tmp_path / "token")))
    assert kms.unwrap(kms.wrap(KEY, image(), ""), "1a2b", "") == KEY
    assert vault.logins == 0
    vault.tokens.clear()
    with pytest.raises(Denied, match=vault.address):
        kms.wrap(KEY, image(), "")


def test_a_role_that_vault_does_not_know_is_denied(vault: Vault, configs: dict[str, KmsConfig]) -> None:
    with pytest.raises(Denied, match="logging in as nobody") as caught:
        VaultKeys(replace(configs["kv"], role="nobody")).wrap(KEY, image(), "")
    assert ACCOUNT_TOKEN not in str(caught.value)


@pytest.mark.parametrize("mood", ["sealed", "mute", "gone", "something else", "no authority"])
def test_a_vault_that_is_away_is_unavailable_with_its_address_and_in_time(
    vault: Vault, configs: dict[str, KmsConfig], mood: str
) -> None:
    config = replace(configs["kv"], timeout=1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        match mood:
            case "sealed":
                vault.sealed = True
            case "mute":
                vault.mute.set()
            case "something else":  # takes connections, and says nothing that is HTTP
                config = replace(config, address=f"http://127.0.0.1:{port}")
            case "no authority":
                config = replace(config, address=f"https://127.0.0.1:{port}", ca_file="/no/such/file")
        if mood == "gone":
            taken.close()
            config = replace(config, address=f"http://127.0.0.1:{port}")
        started = time.monotonic()
        with pytest.raises(Unavailable, match=config.address) as caught:
            VaultKeys(config).wrap(KEY, image(), "")
        assert time.monotonic() - started < 15
        assert KEY not in str(caught.value)


def test_a_name_that_the_config_file_does_not_have_is_refused_with_those_it_has(configs: dict[str, KmsConfig]) -> None:
    with pytest.raises(InvalidRequest, match="kv, metadata, transit"):
        KeyServices(lambda: configs).get("other")


def test_each_request_is_told_of_by_its_kms_its_kind_and_its_outcome(configs: dict[str, KmsConfig], vault: Vault) -> None:
    heard: list[tuple[str, str, str]] = []

    def hear(name: str, kind: str, seconds: float, error: BaseException | None) -> None:
        heard.append((name, kind, type(error).__name__ if error else "ok"))
        assert seconds >= 0

    kms = KeyServices(lambda: configs, hear).get("kv")
    token = kms.wrap(KEY, image(), "")
    kms.unwrap(token, image().image_id, "")
    vault.sealed = True
    with pytest.raises(Unavailable):
        kms.forget(token)
    assert heard == [("kv", "wrap", "ok"), ("kv", "unwrap", "ok"), ("kv", "forget", "Unavailable")]
