"""How a volume is to be encrypted, checked before anything is touched; the passphrase never on a command line. Takes no time."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from provisioner.core.errors import Denied, InvalidRequest, Unfit
from provisioner.core.ids import Place, VolumeId
from provisioner.host.commands import CommandFailed, Commands
from provisioner.host.luks import Encryption, Luks

VOLUME = VolumeId(Place("dev", "rbd"), "pvc-1")


class Recording(Commands):
    """Runs nothing, and remembers what it was to run."""

    def __init__(self, ends_with: int = 0) -> None:
        super().__init__()
        self.words: list[str] = []
        self.stdin, self._code = b"", ends_with

    def run(
        self, about: str, words: Sequence[str], seconds: float, *, stdin: bytes = b"", fds: Sequence[int] = (), cwd: str = "/"
    ) -> str:
        self.words, self.stdin = list(words), stdin
        if self._code:
            raise CommandFailed(words[0], self._code, "no")
        return ""


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("secrets.encryptionPassphrase", {"passphrase": ""}),
        ("encryptionCipher", {"cipher": "aes --help"}),
        ("encryptionKeySize", {"key_size": 100}),
        ("encryptionSectorSize", {"sector_size": 1000}),
    ],
)
def test_what_cannot_be_is_refused_by_name(field: str, given: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Encryption(**{"passphrase": "p", **given})
    assert caught.value.field == field


def test_the_passphrase_goes_through_stdin_and_shows_nowhere() -> None:
    commands, how = Recording(), Encryption("hunter2", sector_size=4096)
    Luks(commands).format(Path("/dev/x"), how)
    assert commands.stdin == b"hunter2"
    assert "hunter2" not in " ".join(commands.words) + repr(how)
    assert commands.words[commands.words.index("--sector-size") + 1] == "4096"


def test_the_memory_of_argon2_is_bounded() -> None:
    commands = Recording()
    Luks(commands).format(Path("/dev/x"), Encryption("p"))
    assert int(commands.words[commands.words.index("--pbkdf-memory") + 1]) <= 128 * 1024


def test_a_wrong_passphrase_is_denied() -> None:
    with pytest.raises(Denied, match="passphrase"):
        Luks(Recording(ends_with=2)).open(Path("/dev/x"), VOLUME, Encryption("p"), read_only=False)


def test_growing_without_a_passphrase_says_where_it_comes_from() -> None:
    with pytest.raises(Unfit, match="node-expand-secret"):
        Luks(Recording()).grow(Path("/dev/x"), VOLUME, None)
