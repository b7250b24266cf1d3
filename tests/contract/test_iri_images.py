"""Volumes of OS images, out of a real registry, through the socket; their content as `rbd` has it. About 20 s."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from provisioner.iri.pb.volume.v1alpha1 import api_pb2 as pb
from tests.contract.driver import refused
from tests.contract.iri import MIB, Runtime, new_uid, running
from tests.harness import registry as registries
from tests.harness.ceph import Ceph
from tests.harness.registry import Registry
from tests.harness.waiting import until


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registries.running(tmp_path_factory.mktemp("oci") / "registry") as made:
        yield made


@pytest.fixture(scope="module")
def images(ceph: Ceph, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    directory = tmp_path_factory.mktemp("images")
    with running(ceph, directory, registries=registry.settings(directory / "registries.json")) as made:
        yield made


def system(size: int = 9 * MIB) -> bytes:
    """An image with data at both ends and nothing in between, as disks are."""
    return os.urandom(MIB) + bytes(size - 2 * MIB) + os.urandom(MIB)


def available(images: Runtime, uid: str) -> pb.Volume:
    def found() -> pb.Volume | None:
        (told,) = images.by_uid(uid)
        return told if told.status.state == pb.VOLUME_AVAILABLE else None

    return until(found, 60, f"volume {uid} is available", lambda: str(images.by_uid(uid)))


def content(ceph: Ceph, image: str, length: int) -> bytes:
    with ceph.open_image(image) as opened:
        return opened.read(0, length)


def bases(ceph: Ceph) -> set[str]:
    return {name for name in ceph.images() if name.startswith("os-")}


def test_a_volume_begins_with_the_image_and_has_the_size_that_was_asked_for(
    images: Runtime, registry: Registry, ceph: Ceph
) -> None:
    data = system()
    images.create_from_image(uid := new_uid(), registry.push("linux", data), size=20 * MIB)
    made = available(images, uid)
    assert content(ceph, uid, len(data)) == data
    assert made.status.resources.storage_bytes == ceph.info(uid)["size"] == 20 * MIB
    assert made.spec.volume_data_source.image_data_source.image == f"{registry.host}/linux:1"
    told = images.told(uid)
    assert (told[0], told[-2:]) == ("ImagePullStarted", ["ImagePulled", "VolumeCreated"])


def test_an_image_is_pulled_once_and_shared_whatever_it_is_called(images: Runtime, registry: Registry, ceph: Ceph) -> None:
    data, before = system(), bases(ceph)
    references = [registry.push("shared", data, tag=f"v{number}") for number in range(4)]
    uids = [new_uid() for _ in references]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(images.create_from_image, uids, references))
    for uid in uids:
        available(images, uid)
        assert content(ceph, uid, len(data)) == data
    (base,) = bases(ceph) - before
    assert {ceph.info(uid)["parent"]["image"] for uid in uids} == {base}  # type: ignore[index]


def test_zeros_take_no_space(images: Runtime, registry: Registry, ceph: Ceph) -> None:
    before = bases(ceph)
    images.create_from_image(uid := new_uid(), registry.push("sparse", system(65 * MIB)))
    available(images, uid)
    (base,) = bases(ceph) - before
    used: list[int] = []
    with ceph.open_image(base) as opened:
        opened.diff_iterate(0, opened.size(), None, lambda at, length, exists: used.append(length if exists else 0))
    assert sum(used) <= 8 * MIB


def test_an_image_that_is_there_is_available_at_once(images: Runtime, registry: Registry) -> None:
    reference = registry.push("again", system())
    images.create_from_image(first := new_uid(), reference)
    available(images, first)
    assert images.create_from_image(new_uid(), reference).status.state == pb.VOLUME_AVAILABLE


def test_a_repeat_needs_no_registry(images: Runtime, registry: Registry) -> None:
    data = system()
    reference = registry.push("repeat", data)
    images.create_from_image(uid := new_uid(), reference)
    made = available(images, uid)
    with registry.lost(data):
        again = images.create_from_image(uid, reference)
    assert again.status.access.handle == made.status.access.handle


def test_an_architecture_chooses_among_several(images: Runtime, registry: Registry, ceph: Ceph) -> None:
    contents = {"amd64": system(), "arm64": system()}
    reference = registry.push_for("many", **contents)
    images.create_from_image(uid := new_uid(), reference, "arm64")
    available(images, uid)
    assert content(ceph, uid, MIB) == contents["arm64"][:MIB]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "image_data_source.architecture", "amd64, arm64"):
        images.create_from_image(new_uid(), reference, "riscv64")


def test_a_spoilt_image_is_an_error_until_the_registry_has_a_good_one(images: Runtime, registry: Registry, ceph: Ceph) -> None:
    data = system()
    reference = registry.push("spoilt", data)
    with registry.spoilt(data):
        images.create_from_image(uid := new_uid(), reference)
        until(lambda: images.by_uid(uid)[0].status.state == pb.VOLUME_ERROR, 60, "it is an error")
        assert "ImagePullFailed" in images.told(uid)
        assert uid not in ceph.images()
    available(images, uid)
    assert content(ceph, uid, len(data)) == data


def test_a_lost_layer_is_looked_for_again(images: Runtime, registry: Registry, ceph: Ceph) -> None:
    data = system()
    reference = registry.push("lost", data)
    with registry.lost(data):
        made = images.create_from_image(uid := new_uid(), reference)
        assert made.status.state in (pb.VOLUME_PENDING, pb.VOLUME_ERROR)
        until(lambda: "ImagePullFailed" in images.told(uid), 60, "it failed once")
    available(images, uid)
    assert content(ceph, uid, len(data)) == data


def test_a_volume_that_waits_can_be_deleted_and_never_comes(images: Runtime, registry: Registry, ceph: Ceph) -> None:
    data = system()
    reference = registry.push("cancelled", data)
    with registry.lost(data):
        images.create_from_image(uid := new_uid(), reference)
        images.delete(uid)
        assert images.by_uid(uid) == []
        with refused(grpc.StatusCode.NOT_FOUND):
            images.delete(uid)
    images.create_from_image(other := new_uid(), reference)
    available(images, other)
    assert uid not in ceph.images()


def test_what_names_no_image_is_refused_at_once(images: Runtime, registry: Registry, ceph: Ceph) -> None:
    other = registry.push("other", b"text", media="application/vnd.oci.image.layer.v1.tar")
    for reference, code in (
        ("", "INVALID_ARGUMENT"),
        ("a b", "INVALID_ARGUMENT"),
        (f"{registry.host}/linux@sha256:123", "INVALID_ARGUMENT"),
        (f"{registry.host}/linux@sha256:{64 * '0'}", "NOT_FOUND"),
        (f"{registry.host}/no-such-image:1", "NOT_FOUND"),
        (other, "INVALID_ARGUMENT"),
        ("127.0.0.1:1/linux:1", "UNAVAILABLE"),
    ):
        with refused(grpc.StatusCode[code], reference.split("@")[0].split(":1")[0]):
            images.create_from_image(uid := new_uid(), reference)
        assert images.by_uid(uid) == []
        assert uid not in ceph.images()


def test_an_image_that_does_not_fit_is_out_of_range(images: Runtime, registry: Registry) -> None:
    with refused(grpc.StatusCode.OUT_OF_RANGE, "volume.spec.resources.storage_bytes"):
        images.create_from_image(new_uid(), registry.push("large", system()), size=8 * MIB)


def test_a_registry_that_asks_who_we_are_is_told(ceph: Ceph, tmp_path: Path) -> None:
    data = system(3 * MIB)
    with registries.running(tmp_path / "closed", closed=True) as closed:
        reference = closed.push("secret", data)
        with running(ceph, tmp_path, registries=closed.settings(tmp_path / "registries.json")) as own:
            own.create_from_image(uid := new_uid(), reference)
            available(own, uid)
            assert content(ceph, uid, len(data)) == data
            (tmp_path / "password").write_text("wrong")
            with refused(grpc.StatusCode.PERMISSION_DENIED, "refuses"):
                own.create_from_image(new_uid(), closed.push("secret", system(2 * MIB), tag="2"))
