"""Debian's kernel, unpacked into the cache and never installed, and an initramfs with the few modules that find the root."""

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hack.krbd.packages import locked_cache, unpack

HERE = Path(__file__).parent
META_PACKAGE = "linux-image-cloud-amd64"
_MODULES = ("virtio_pci", "virtio_net", "virtio_console", "virtio_rng", "overlay", "virtiofs")
_LZ4 = bytes.fromhex("02214c18")


@dataclass(frozen=True)
class Kernel:
    """What a machine boots: `directory` holds lib/modules of this release."""

    directory: Path
    image: Path
    initramfs: Path


def kernel(say: Callable[[str], None]) -> Kernel:
    """The kernel, downloaded and unpacked first if the cache has none (about 10 seconds)."""
    with locked_cache() as cache:
        found = sorted(path for path in cache.glob("linux-image-*") if path.is_dir())
        directory = found[-1] if found else _fetch(cache, say)
        return Kernel(directory, _vmlinux(directory), _initramfs(directory))


def _fetch(cache: Path, say: Callable[[str], None]) -> Path:
    depends = subprocess.run(["apt-cache", "depends", META_PACKAGE], capture_output=True, text=True, check=True).stdout
    package = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image" in line)
    say(f"fetching {package}")
    with tempfile.TemporaryDirectory(dir=cache) as work:
        root = unpack([package], Path(work))
        release = next((root / "lib/modules").iterdir()).name
        subprocess.run(["depmod", "-b", str(root), release], check=True)
        root.rename(cache / package)
    return cache / package


def _vmlinux(directory: Path) -> Path:
    """The kernel as an ELF file, which QEMU starts without the guest having to unpack it (boot protocol: payload_offset)."""
    made = directory / "vmlinux"
    if not made.exists():
        (packed,) = directory.glob("boot/vmlinuz-*")
        raw = packed.read_bytes()
        offset, length = struct.unpack_from("<II", raw, 0x248)
        payload = raw[((raw[0x1F1] or 4) + 1) * 512 + offset :][:length]
        if not payload.startswith(_LZ4):
            raise SystemExit(f"{packed}: packed in a way that is not known here")
        elf = subprocess.run(
            ["lz4", "-d", "-c", "-"], input=payload, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
        )
        made.with_suffix(".new").write_bytes(elf.stdout)  # lz4 ends with a complaint about the length that follows
        made.with_suffix(".new").rename(made)
    return made


def _initramfs(directory: Path) -> Path:
    made = directory / "initramfs"
    parts = (HERE / "init.sh", HERE / "agent.sh")
    if not made.exists() or made.stat().st_mtime < max(path.stat().st_mtime for path in parts):
        made.write_bytes(_archive(directory))
    return made


def _archive(directory: Path) -> bytes:
    release = next((directory / "lib/modules").iterdir())
    modules = _load_order(release)
    archive = _Cpio()
    for name in ("bin", "proc", "sys", "dev", "modules", "lower", "rw", "root"):
        archive.directory(name)
    archive.file("bin/busybox", Path(shutil.which("busybox") or "/bin/busybox").read_bytes())
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            archive.link(f"bin/{applet}", "busybox")
    archive.file("init", (HERE / "init.sh").read_bytes())
    archive.file("agent", (HERE / "agent.sh").read_bytes())
    for module in modules:
        archive.file(f"modules/{module.name}", module.read_bytes())
    archive.file("modules/order", "".join(f"{module.name}\n" for module in modules).encode())
    return archive.done()


def _load_order(release: Path) -> list[Path]:
    """The modules and what they need, each after what it needs; those that are built in are left out."""
    needs = {}
    for line in (release / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[Path(path).name.split(".")[0].replace("-", "_")] = [path, *rest.split()]
    order: list[str] = []
    for module in _MODULES:
        for path in reversed(needs.get(module, [])):
            if path not in order:
                order.append(path)
    return [release / path for path in order]


class _Cpio:
    """An archive as the kernel unpacks it (newc)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._number = 0

    def directory(self, name: str) -> None:
        self._add(name, 0o040755, b"")

    def file(self, name: str, content: bytes) -> None:
        self._add(name, 0o100755, content)

    def link(self, name: str, target: str) -> None:
        self._add(name, 0o120777, target.encode())

    def done(self) -> bytes:
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _add(self, name: str, mode: int, content: bytes) -> None:
        self._number += 1
        fields = (self._number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        self._parts += [_padded(head), _padded(content)]


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 4)
