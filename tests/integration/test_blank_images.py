"""Whether an image was never written where file systems have their marks: told by Ceph, without reading. About 5 seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import rbd

from provisioner.ceph.cluster import Clusters
from provisioner.ceph.nodes import NodeImages
from provisioner.core.ids import Place, VolumeId
from provisioner.host.filesystem import HEAD, TAIL
from tests.harness.ceph import Ceph

MIB = 1 << 20
SIZE = 65 * MIB
"""Its last MiB is in an object that is not full."""


def is_blank(ceph: Ceph, name: str) -> bool:
    images = NodeImages(Clusters(lambda: {"dev": replace(ceph.config(), user="admin", keyring="")}))
    return images.is_blank(images.opening(VolumeId(Place("dev", ceph.pool), name), None), HEAD, TAIL)


@contextmanager
def an_image(ceph: Ceph, name: str, **layout: object) -> Iterator[rbd.Image]:
    with ceph.admin_pool() as pool:
        rbd.RBD().create(pool, name, SIZE, old_format=False, **layout)
    with ceph.open_image(name) as image:
        yield image


@pytest.mark.parametrize("order", [12, 20, 22, 25])
def test_an_image_that_was_never_written_is_blank(ceph: Ceph, order: int) -> None:
    with an_image(ceph, f"blank-{order}", order=order):
        assert is_blank(ceph, f"blank-{order}")


@pytest.mark.parametrize("order", [12, 22, 25])
@pytest.mark.parametrize("offset", [0, 4096, 4 * MIB - 1, SIZE - MIB, SIZE - 1])
def test_one_byte_at_either_end_makes_it_none(ceph: Ceph, order: int, offset: int) -> None:
    name = f"written-{order}-{offset}"
    with an_image(ceph, name, order=order) as image:
        image.write(b"\1", offset)
    assert not is_blank(ceph, name)


def test_data_in_a_pool_of_its_own_is_found_there(ceph: Ceph) -> None:
    ceph.command("osd pool create", pool="blank-data", pg_num=1)
    ceph.command("osd pool application enable", pool="blank-data", app="rbd")
    with an_image(ceph, "blank-elsewhere", data_pool="blank-data") as image:
        assert is_blank(ceph, "blank-elsewhere")
        image.write(b"\1", 0)
    assert not is_blank(ceph, "blank-elsewhere")


def test_a_clone_has_what_its_parent_has(ceph: Ceph) -> None:
    with an_image(ceph, "blank-parent", features=rbd.RBD_FEATURE_LAYERING) as image:
        image.write(b"\1", 0)
        image.create_snap("s")
        image.protect_snap("s")
    with ceph.admin_pool() as pool:
        rbd.RBD().clone(pool, "blank-parent", "s", pool, "blank-clone", features=rbd.RBD_FEATURE_LAYERING)
    assert not is_blank(ceph, "blank-clone")


def test_an_image_that_is_striped_in_an_uncommon_way_has_to_be_read(ceph: Ceph) -> None:
    features = rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_STRIPINGV2
    with an_image(ceph, "blank-striped", features=features, stripe_unit=65536, stripe_count=4):
        assert not is_blank(ceph, "blank-striped")
