"""The one image of a development node, made by hand: Debian's static busybox under every name that it answers to."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

NAME = "localhost/busybox:1"
_DIRECTORIES = {"bin": 0o755, "dev": 0o755, "etc": 0o755, "proc": 0o755, "root": 0o700, "sys": 0o755, "tmp": 0o1777}
_IDLE = ["/bin/tail", "-f", "/dev/null"]
"""What a pod's sandbox runs."""


class ImageError(Exception):
    """The image can't be had; the text says why."""


def offer(socket: Path, archive: Path, seconds: float) -> None:
    """Give the image to the containerd at the socket, unless it has it; the archive is made if need be."""
    containers = ["ctr", "--address", str(socket), "--namespace", "k8s.io", "images"]
    if NAME in _run([*containers, "list", "--quiet"], seconds).split():
        return
    if not archive.exists():
        write(archive)
    _run([*containers, "import", str(archive)], seconds)


def write(path: Path) -> None:
    """Write the image as `docker save` would."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    layer = _layer(busybox.read_bytes(), _run([str(busybox), "--list"], 10).split())
    digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": _run(["dpkg", "--print-architecture"], 10).strip(),
        "os": "linux",
        "config": {"Cmd": _IDLE, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    said = json.dumps(config).encode()
    name = hashlib.sha256(said).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "RepoTags": [NAME], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(path.with_suffix(".new"), "w") as archive:
        for member, content in ((name, said), ("layer.tar", layer), ("manifest.json", manifest)):
            _add(archive, member, content, 0o644)
    path.with_suffix(".new").replace(path)


def _layer(busybox: bytes, applets: list[str]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as layer:
        for name, mode in _DIRECTORIES.items():
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, mode
            layer.addfile(directory)
        _add(layer, "bin/busybox", busybox, 0o755)
        for applet in applets:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            if applet != "busybox":
                layer.addfile(link)
        _add(layer, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)
    return written.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def _run(words: list[str], seconds: float) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{words[0]}: {error}") from error
    if done.returncode:
        raise ImageError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
