"""OS images in OCI registries: what a reference means, and the bytes behind it, checked against their digest.

The artifact is IronCore's: a manifest with a layer of the media type `application/vnd.ironcore.image.rootfs...`, raw; or an index
of such manifests by architecture. References, manifests and tokens are oras's business; the time that a call may take is ours.

A registry needs a word in the config only where it is not public HTTPS:

    registry.example.com:5000: {plainHttp: true}
    other.example.com: {username: robot, passwordFile: /keys/robot, ca: /keys/ca.pem}
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import oras.provider  # type: ignore[import-untyped]
import requests
import yaml
from oras.container import Container  # type: ignore[import-untyped]
from requests.adapters import HTTPAdapter

from provisioner.core.content import Artifact
from provisioner.core.errors import Denied, InvalidRequest, NotFound, ProvisionerError, Unavailable

_FIELD = "volume.spec.volume_data_source.image_data_source"
_CHUNK = 1 << 20
_MOST = 4 << 20
"""Bytes of the longest manifest."""
_ROOTFS = re.compile(r"application/vnd\.(ironcore|onmetal)\.image\.rootfs(\..+)?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ACCEPTED = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)


class _Settings(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    plain_http: bool = False
    username: str = ""
    password_file: str = ""
    ca: str = ""


class Registries:
    """Implements `core.content.ArtifactSource`; thread-safe: each call has a session of its own."""

    def __init__(self, config: Path | None = None, timeout: float = 10.0) -> None:
        """`timeout` bounds in seconds every connecting and every wait for the next bytes. Raises InvalidRequest."""
        self._timeout, self._settings = timeout, _read_settings(config) if config else {}

    def resolve(self, reference: str, architecture: str) -> Artifact:
        """What a reference means now."""
        container = _parsed(reference)
        with _explained(reference), _Session(self._of(container), self._timeout) as session:
            manifest = session.manifest(container, container.digest or container.tag)
            if "manifests" in manifest:
                manifest = session.manifest(container, _chosen(reference, manifest["manifests"], architecture))
        for layer in manifest.get("layers") or []:
            if _ROOTFS.fullmatch(layer.get("mediaType", "")):
                return _artifact(reference, layer)
        raise InvalidRequest(f"{_FIELD}.image", reference, "has no layer with a root file system of IronCore's media types")

    def read(self, artifact: Artifact) -> Iterator[bytes]:
        """The bytes, checked at the end."""
        container, seen = _parsed(artifact.reference), hashlib.sha256()
        with _explained(artifact.reference), _Session(self._of(container), self._timeout) as session:
            for chunk in session.blob(container, artifact.digest):
                seen.update(chunk)
                yield chunk
        if f"sha256:{seen.hexdigest()}" != artifact.digest:
            raise InvalidRequest(f"{_FIELD}.image", artifact.reference, f"its content is not that of {artifact.digest}")

    def _of(self, container: Container) -> _Settings:
        return self._settings.get(container.registry, _Settings())


class _Registry(oras.provider.Registry):  # type: ignore[misc]
    """Without oras's retries, which sleep for minutes: who retries, and when, is decided elsewhere."""

    do_request = oras.provider.Registry.do_request.__wrapped__


class _Session:
    """One registry, for one question."""

    def __init__(self, settings: _Settings, timeout: float) -> None:
        self._settings = settings
        self._registry = _Registry(insecure=settings.plain_http, tls_verify=settings.ca or True)
        for scheme in ("http://", "https://"):
            self._registry.session.mount(scheme, _Bounded(timeout))
        self._registry.session.trust_env = False
        self._logged_in = not settings.username

    def __enter__(self) -> "_Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._registry.session.close()

    def manifest(self, container: Container, which: str) -> dict[str, Any]:
        """A manifest or an index, checked if it was named by its digest."""
        if not self._logged_in:
            self._log_in(container.registry)
        url = f"{self._registry.prefix}://{container.manifest_url(which)}"
        with self._answer(url, {"Accept": _ACCEPTED}) as answer:
            raw = answer.raw.read(_MOST + 1, decode_content=True)
        if len(raw) > _MOST:
            raise InvalidRequest(f"{_FIELD}.image", container.uri, f"its manifest is longer than {_MOST} bytes")
        if _DIGEST.fullmatch(which) and f"sha256:{hashlib.sha256(raw).hexdigest()}" != which:
            raise InvalidRequest(f"{_FIELD}.image", container.uri, f"its manifest is not that of {which}")
        try:
            return msgspec.json.decode(raw, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"{_FIELD}.image", container.uri, f"its manifest is no JSON: {error}") from error

    def blob(self, container: Container, digest: str) -> Iterator[bytes]:
        """A blob, in pieces."""
        if not self._logged_in:
            self._log_in(container.registry)
        url = f"{self._registry.prefix}://{container.get_blob_url(digest)}"
        with self._answer(url, {}) as answer:
            yield from answer.iter_content(_CHUNK)

    def _log_in(self, registry: str) -> None:
        """Have the user's name and password sent: to the registry itself, or to whoever it names for tokens."""
        password = Path(self._settings.password_file).read_text().strip()
        wants = self._registry.session.get(f"{self._registry.prefix}://{registry}/v2/", verify=self._settings.ca or True)
        if wants.headers.get("Www-Authenticate", "").lower().startswith("basic"):
            self._registry.session.auth = (self._settings.username, password)
        else:
            self._registry.auth.set_basic_auth(self._settings.username, password)
        self._logged_in = True

    def _answer(self, url: str, headers: dict[str, str]) -> requests.Response:
        answer: requests.Response = self._registry.do_request(url, "GET", headers=headers, stream=True)
        if answer.status_code == 404:
            raise NotFound(url)
        if answer.status_code in (401, 403):
            raise _Refused(url)
        if answer.status_code != 200:
            raise Unavailable(f"{url} answers {answer.status_code} {answer.reason}")
        return answer


class _Bounded(HTTPAdapter):
    """Bounds every wait: requests itself has no default."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        super().__init__()

    def send(self, *args: Any, **options: Any) -> requests.Response:
        """Send with our timeout in place of none."""
        options["timeout"] = options.get("timeout") or self._timeout
        return super().send(*args, **options)


class _Refused(Denied):
    """The registry does not let us."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.args = (f"the registry refuses {what}",)


class _explained:  # noqa: N801  a context manager, used as a verb
    """Raises what reading a registry raises in the core's words, with the reference that it is about."""

    def __init__(self, reference: str) -> None:
        self._reference = reference

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, NotFound):
            raise NotFound(f"{_FIELD}.image {self._reference}: {error.what}") from error
        if error is None or isinstance(error, ProvisionerError | GeneratorExit):
            return
        if isinstance(error, ValueError):  # how oras (or requests, of the address for tokens) tells that no login will do
            raise _Refused(f"image {self._reference}: {error}") from error
        if isinstance(error, requests.RequestException):
            raise Unavailable(f"image {self._reference}: {type(error).__name__}") from error
        if isinstance(error, OSError):
            raise Unavailable(f"image {self._reference}: {error}") from error


def _parsed(reference: str) -> Container:
    field = f"{_FIELD}.image"
    if not reference or len(reference) > 512 or not reference.isascii() or not reference.isprintable() or " " in reference:
        raise InvalidRequest(field, reference[:64], "must be a reference: HOST/NAME:TAG or HOST/NAME@sha256:DIGEST")
    try:
        container = Container(reference)
    except ValueError as error:
        raise InvalidRequest(field, reference, "must be a reference: HOST/NAME:TAG or HOST/NAME@sha256:DIGEST") from error
    if container.digest and not _DIGEST.fullmatch(container.digest):
        raise InvalidRequest(field, reference, "its digest must be sha256: and 64 hex digits")
    return container


def _chosen(reference: str, manifests: list[dict[str, Any]], architecture: str) -> str:
    """The digest of the manifest for an architecture."""
    offered = {(each.get("platform") or {}).get("architecture", ""): str(each.get("digest", "")) for each in manifests}
    if not architecture and len(offered) == 1:
        return next(iter(offered.values()))
    if architecture not in offered:
        why = f"the image is there for {', '.join(sorted(offered))}"
        raise InvalidRequest(f"{_FIELD}.architecture", architecture, why)
    return offered[architecture]


def _artifact(reference: str, layer: Mapping[str, Any]) -> Artifact:
    digest, size = layer.get("digest", ""), layer.get("size", 0)
    if not _DIGEST.fullmatch(str(digest)) or not isinstance(size, int) or size <= 0:
        raise InvalidRequest(f"{_FIELD}.image", reference, f"its layer {digest!r} of {size} bytes can't be read")
    return Artifact(reference, digest, size)


def _read_settings(path: Path) -> dict[str, _Settings]:
    try:
        return msgspec.convert(yaml.safe_load(path.read_text()) or {}, dict[str, _Settings])
    except OSError as error:
        raise InvalidRequest("--registries", path, error.strerror or str(error)) from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise InvalidRequest("--registries", path, str(error)) from error
