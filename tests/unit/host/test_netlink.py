"""Generic netlink with the kernel of this machine, whether or not it has nbd. Takes no time."""

import socket

import pytest

from provisioner.host.devices import netlink

FAMILY_OF_FAMILIES = 16


def test_a_family_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "_FAMILY", b"nlctrl")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as kernel:
        assert netlink._number_of_family(kernel) == FAMILY_OF_FAMILIES


@pytest.mark.parametrize("told", [lambda: netlink.disconnect(0), lambda: netlink.resize(0, "cp:dev/rbd/pvc-1", 1 << 20)])
def test_a_kernel_without_the_family_says_so(told: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "_FAMILY", b"no-such-family")
    with pytest.raises(FileNotFoundError):
        told()  # type: ignore[operator]
