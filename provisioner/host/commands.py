"""Programs of the host, each with a deadline, and never more of them than the kernel lets go of.

A program that waits for a dead cluster inside the kernel does not even die of SIGKILL. It is left behind, and remembered:
until it is gone, nothing else is started about the same thing.
"""

import logging
import subprocess
import threading
from collections.abc import Sequence

from provisioner.core.errors import ProvisionerError, Unavailable

log = logging.getLogger(__name__)

_LAST_WORDS = 500
_GRACE = 2.0
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DM_DISABLE_UDEV": "1",  # a container has no udev: cryptsetup would wait for it for ever
}


class CommandFailed(ProvisionerError):
    """A program ended badly: `code` is its exit code, `said` the end of what it wrote to stderr (or stdout)."""

    def __init__(self, name: str, code: int, said: str) -> None:
        self.name, self.code, self.said = name, code, said
        super().__init__(f"{name} ended with {code}: {said or 'without a word'}")


class Commands:
    """Runs programs. One object for a process: it remembers which of them hang."""

    def __init__(self) -> None:
        self._hanging: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def run(
        self, about: str, words: Sequence[str], seconds: float, *, stdin: bytes = b"", fds: Sequence[int] = (), cwd: str = "/"
    ) -> str:
        """Run a program about a device or path, and give what it wrote to stdout.

        `stdin` is where secrets go, or the descriptors `fds`, which it inherits. Raises CommandFailed for a bad end, Unavailable
        after so many seconds, or while an earlier one about the same thing still hangs.
        """
        self._refuse_behind(about)
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=fds,
                cwd=cwd,
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        except OSError as error:
            raise CommandFailed(words[0], 127, error.strerror or str(error)) from error
        try:
            out, err = process.communicate(stdin, timeout=seconds)
        except subprocess.TimeoutExpired:
            self._abandon(about, process)
            raise Unavailable(f"{words[0]} did not come to an end in {seconds:.0f} s") from None
        if process.returncode:
            said = (err or out).decode(errors="replace").strip()[-_LAST_WORDS:]
            raise CommandFailed(words[0], process.returncode, said)
        return out.decode(errors="replace")

    def hanging(self) -> int:
        """How many programs hang in the kernel although they were killed."""
        with self._lock:
            self._hanging = {about: process for about, process in self._hanging.items() if process.poll() is None}
            return len(self._hanging)

    def _refuse_behind(self, about: str) -> None:
        if self.hanging() and about in self._hanging:
            raise Unavailable(f"an earlier program about {about} still hangs in the kernel")

    def _abandon(self, about: str, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        try:
            process.communicate(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            log.warning("process %d about %s hangs in the kernel and does not die", process.pid, about)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
            with self._lock:
                self._hanging[about] = process
