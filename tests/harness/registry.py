"""A real OCI registry, and images pushed to it by hand."""

import hashlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.harness.waiting import until

ROOTFS = "application/vnd.ironcore.image.rootfs.v1alpha1.rootfs"
LOGIN = ("robot", "opensesame")
_HASHED = "$2b$04$vwkw/Wb5essAMY/Sr2w9uui4lgRLbccewyi2GM0Yc4SQD1.LZm0By"
"""Its password as bcrypt has it: all that docker-registry takes."""
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Registry:
    """One docker-registry on loopback, over plain HTTP."""

    host: str
    directory: Path
    login: tuple[str, str] | None = None

    def push(self, name: str, content: bytes, tag: str = "1", media: str = ROOTFS) -> str:
        """Push an image with one layer; gives its reference by tag."""
        self._put_manifest(name, tag, _MANIFEST, self._manifest(name, content, media))
        return f"{self.host}/{name}:{tag}"

    def push_for(self, name: str, **contents: bytes) -> str:
        """Push an index of images by architecture."""
        entries = []
        for architecture, content in contents.items():
            manifest = self._manifest(name, content, ROOTFS)
            digest = self._put_manifest(name, architecture, _MANIFEST, manifest)
            size = len(json.dumps(manifest))
            platform = {"architecture": architecture, "os": "linux"}
            entries.append({"mediaType": _MANIFEST, "digest": digest, "size": size, "platform": platform})
        self._put_manifest(name, "1", _INDEX, {"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries})
        return f"{self.host}/{name}:1"

    @contextmanager
    def spoilt(self, content: bytes) -> Iterator[None]:
        """Have the registry hold other bytes under the content's digest, for the block."""
        blob = self._blob(content)
        kept = blob.read_bytes()
        blob.write_bytes(bytes(reversed(kept)))
        try:
            yield
        finally:
            blob.write_bytes(kept)

    @contextmanager
    def lost(self, content: bytes) -> Iterator[None]:
        """Have the registry lack a blob, for the block."""
        blob = self._blob(content)
        aside = blob.with_name("aside")
        shutil.move(blob, aside)
        try:
            yield
        finally:
            shutil.move(aside, blob)

    def settings(self, path: Path) -> Path:
        """Write what the program has to know of this registry."""
        told: dict[str, Any] = {"plainHttp": True}
        if self.login:
            password = path.with_name("password")
            password.write_text(self.login[1] + "\n")
            told |= {"username": self.login[0], "passwordFile": str(password)}
        path.write_text(json.dumps({self.host: told}))
        return path

    def _blob(self, content: bytes) -> Path:
        digest = hashlib.sha256(content).hexdigest()
        return self.directory / "docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"

    def _manifest(self, name: str, content: bytes, media: str) -> dict[str, Any]:
        config = self._descriptor(name, b"{}", "application/vnd.ironcore.image.config.v1alpha1+json")
        return {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": config,
            "layers": [self._descriptor(name, content, media)],
        }

    def _descriptor(self, name: str, content: bytes, media: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        began = requests.post(f"http://{self.host}/v2/{name}/blobs/uploads/", auth=self.login, timeout=10)
        began.raise_for_status()
        where = began.headers["Location"]
        where += ("&" if "?" in where else "?") + f"digest={digest}"
        requests.put(where, data=content, auth=self.login, timeout=60).raise_for_status()
        return {"mediaType": media, "digest": digest, "size": len(content)}

    def _put_manifest(self, name: str, tag: str, media: str, manifest: dict[str, Any]) -> str:
        url, raw = f"http://{self.host}/v2/{name}/manifests/{tag}", json.dumps(manifest)
        answer = requests.put(url, data=raw, headers={"Content-Type": media}, auth=self.login, timeout=10)
        answer.raise_for_status()
        return answer.headers["Docker-Content-Digest"]


@contextmanager
def running(directory: Path, *, closed: bool = False) -> Iterator[Registry]:
    """A registry for the block; one that is closed lets in LOGIN only."""
    directory.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": host},
    }
    if closed:
        (directory / "htpasswd").write_text(f"{LOGIN[0]}:{_HASHED}\n")
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
    (directory / "config.yaml").write_text(json.dumps(config))
    process = subprocess.Popen(["docker-registry", "serve", str(directory / "config.yaml")])
    try:
        until(lambda: _answers(host), 120, "the registry answers")
        yield Registry(host, directory / "data", LOGIN if closed else None)
    finally:
        process.terminate()
        process.wait(10)


def _answers(host: str) -> bool:
    try:
        return requests.get(f"http://{host}/v2/", timeout=5).status_code in (200, 401)
    except requests.RequestException:
        return False
