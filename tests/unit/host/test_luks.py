"""How a volume is encrypted: options checked before anything is touched, keys never on a command line, real headers.

About 15 seconds: headers are made on a file, by cryptsetup; opening one takes the device mapper, which a build machine may lack.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from provisioner.core.encryption import Encryption
from provisioner.core.errors import Denied, InvalidRequest, Unfit
from provisioner.core.ids import Place, VolumeId
from provisioner.host.commands import CommandFailed, Commands
from provisioner.host.luks import Luks

VOLUME = VolumeId(Place("dev", "rbd"), "pvc-1")
POD = 256 << 20


class Recording(Commands):
    """Runs nothing, and remembers what it was to run."""

    def __init__(self, ends_with: int = 0) -> None:
        super().__init__()
        self.all: list[list[str]] = []
        self.stdin, self._code = b"", ends_with

    @property
    def words(self) -> list[str]:
        return self.all[-1]

    def run(
        self, about: str, words: Sequence[str], seconds: float, *, stdin: bytes = b"", fds: Sequence[int] = (), cwd: str = "/"
    ) -> str:
        self.all.append(list(words))
        self.stdin = stdin
        if self._code:
            raise CommandFailed(words[0], self._code, "no")
        return ""


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("secrets.encryptionPassphrase", {"passphrase": ""}),
        ("encryptionCipher", {"cipher": "aes --help"}),
        ("encryptionKeySize", {"key_size": 100}),
        ("encryptionKeySize", {"key_size": 128}),
        ("encryptionSectorSize", {"sector_size": 1000}),
        ("integrityMode", {"integrity": "crc32"}),
    ],
)
def test_what_cannot_be_is_refused_by_name(field: str, given: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Encryption(**{"passphrase": "p", **given})
    assert caught.value.field == field


def test_the_key_goes_through_stdin_and_shows_nowhere() -> None:
    commands, how = Recording(), Encryption("hunter2", sector_size=4096)
    Luks(commands).format(Path("/dev/x"), how, "k3y")
    assert commands.stdin == b"k3y"
    assert "hunter2" not in " ".join(commands.words) + repr(how)
    assert "k3y" not in " ".join(commands.words)
    assert commands.words[commands.words.index("--sector-size") + 1] == "4096"


def test_integrity_is_asked_of_cryptsetup_by_its_name() -> None:
    commands = Recording()
    Luks(commands).format(Path("/dev/x"), Encryption("p", integrity="hmac-sha256"), "k")
    assert commands.words[commands.words.index("--integrity") + 1] == "hmac-sha256"


def test_a_volume_with_integrity_is_opened_without_discards_which_it_can_not_take() -> None:
    commands = Recording()
    Luks(commands).open(Path("/dev/x"), VOLUME, ["k"], read_only=False, integrity=True)
    assert "--allow-discards" not in commands.words
    Luks(commands).open(Path("/dev/x"), VOLUME, ["k"], read_only=False)
    assert "--allow-discards" in commands.words


def test_each_key_is_tried_and_none_that_opens_is_denied() -> None:
    commands = Recording(ends_with=2)
    with pytest.raises(Denied, match="passphrase"):
        Luks(commands).open(Path("/dev/x"), VOLUME, ["new", "old"], read_only=False)
    assert len(commands.all) == 2


def test_growing_without_a_key_says_where_it_comes_from() -> None:
    with pytest.raises(Unfit, match="node-expand-secret"):
        Luks(Recording()).grow(Path("/dev/x"), VOLUME, ())


@pytest.fixture
def device(tmp_path: Path) -> Path:
    file = tmp_path / "device"
    with file.open("wb") as opened:
        opened.truncate(32 << 20)
    return file


def header(device: Path) -> dict[str, object]:
    told = subprocess.run(["cryptsetup", "luksDump", "--dump-json-metadata", str(device)], check=True, capture_output=True)
    read: dict[str, object] = json.loads(told.stdout)
    return read


def test_the_header_has_what_was_asked_for_and_a_bounded_argon2(device: Path) -> None:
    how = Encryption("p", cipher="aes-cbc-essiv:sha256", key_size=256, sector_size=4096)
    Luks(Commands()).format(device, how, "k")
    read = header(device)
    segment, slot = read["segments"]["0"], read["keyslots"]["0"]  # type: ignore[index]
    assert (segment["encryption"], segment["sector_size"], slot["key_size"]) == ("aes-cbc-essiv:sha256", 4096, 32)
    assert slot["kdf"]["type"] == "argon2id"
    assert slot["kdf"]["memory"] <= 64 * 1024


def test_a_cipher_that_cryptsetup_refuses_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="nosuch-xts-plain64"):
        Luks(Recording(ends_with=1)).format(Path("/dev/x"), Encryption("p", cipher="nosuch-xts-plain64"), "k")


def test_opening_fits_into_a_pod_of_256_megabytes(device: Path) -> None:
    Luks(Commands()).format(device, Encryption("p"), "k")
    words = ["prlimit", f"--as={POD}", "cryptsetup", "open", "--test-passphrase", "--key-file", "-", str(device)]
    done = subprocess.run(words, input=b"k", capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_second_key_opens_beside_the_first_and_is_bounded_too(device: Path) -> None:
    luks = Luks(Commands())
    luks.format(device, Encryption("p"), "old")
    for _ in range(2):
        luks.add_key(device, "old", "new")
    assert [luks.opens(device, key) for key in ("old", "new", "other")] == [True, True, False]
    assert [slot["kdf"]["memory"] <= 64 * 1024 for slot in header(device)["keyslots"].values()] == [True, True]  # type: ignore[attr-defined]


def test_a_key_is_removed_only_where_another_is_left(device: Path) -> None:
    luks = Luks(Commands())
    luks.format(device, Encryption("p"), "old")
    with pytest.raises(Denied):
        luks.remove_key(device, "old", "new")
    luks.add_key(device, "old", "new")
    for _ in range(2):
        luks.remove_key(device, "old", "new")
    assert [luks.opens(device, key) for key in ("old", "new")] == [False, True]


def test_the_second_key_is_on_no_command_line() -> None:
    commands = Recording()
    commands_of = Luks(commands)
    commands_of.opens = lambda device, key: key == "0ld"  # type: ignore[method-assign]
    commands_of.add_key(Path("/dev/x"), "0ld", "n3w")
    assert not any(key in word for key in ("0ld", "n3w") for word in commands.words)
