"""A node of a Kubernetes in a virtual machine whose kernel has rbd: udevd, containerd and a kubelet of 1.30.

The kubelet's in-tree plugin is the last program between a native PersistentVolume and a pod: it calls Debian's `rbd map`, mkfs,
mount and `rbd unmap` by itself. Nothing of ours runs there. Certificates and configuration are read in the cluster's directory,
which the guest sees as the host has it; API server and Ceph are on the host's loopback. What is written in the guest stays there.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from hack.krbd.machine import Machine, machine
from hack.krbd.packages import udev
from hack.kubernetes import image, versions
from hack.kubernetes.build import built
from hack.kubernetes.node import NAME, Node
from provisioner.kube.errors import NotFound
from provisioner.kube.resources import NODES, Object
from tests.harness.kubernetes import Kubernetes
from tests.harness.pods import Pods
from tests.harness.waiting import until

VERSION = "1.30"
"""The last one whose kubelet maps images."""
SLOW = 900
"""Seconds that anything may take: the guest is emulated, on a machine that has other things to do."""

_ADDRESS, _PORT, _MEMORY = "10.0.2.15", 10250, 2048
_PLUGIN = ("--vmodule=rbd=4,rbd_util=4",)
"""Has the plugin tell what it does; the rest of the kubelet stays silent, which costs less."""


class GuestKubelet(Pods):
    """The node, and pods on it. Paths are the guest's."""

    def __init__(self, guest: Machine, kubernetes: Kubernetes, node: Node) -> None:
        super().__init__(kubernetes)
        self.guest, self._node = guest, node

    def start(self) -> "GuestKubelet":
        self._start_udev()
        # what an init system would have done: control groups, and the device by which losetup asks for another loop
        self.guest.check("mount -t cgroup2 cgroup /sys/fs/cgroup; modprobe loop", SLOW)
        self.guest.background(self._node.containerd(), "/run/containerd.log")
        runtime = f"ctr --address {self._node.socket}"
        until(lambda: not self.guest.run(f"{runtime} version", SLOW).code, SLOW, "containerd answers", self.last_words, every=1)
        self.guest.check(f"{runtime} --namespace k8s.io images import {self._node.home}/busybox.tar", SLOW)
        kubelet = self._node.kubelet(built(versions.kubernetes(versions.pins()[0][VERSION]), print))
        self.guest.background(["/usr/bin/env", "-C", str(self._node.home), *kubelet, *_PLUGIN], "/run/kubelet.log")
        until(self._ready, SLOW, "the node is ready", self.last_words, every=0.5)
        return self

    def info(self) -> dict[str, str]:
        """What the kubelet tells of itself and of its machine."""
        told: dict[str, str] = self.kubernetes.api.get(NODES.path(name=NAME))["status"]["nodeInfo"]
        return told

    def mapped(self) -> list[str]:
        """Names of the images that the guest's kernel has mapped."""
        return self.guest.run("cat /sys/bus/rbd/devices/*/name 2>/dev/null", SLOW).output.split()

    def mounts(self) -> list[str]:
        """Where the guest's kernel has mounted images, a line of mountinfo each."""
        return self.guest.run("grep /dev/rbd /proc/self/mountinfo", SLOW).output.splitlines()

    def content(self, pod: Object, volume: Object, file: str) -> str:
        """What a file in a pod's volume holds, read where the kubelet has mounted it; "" without one."""
        at = self._node.root / "pods" / pod["metadata"]["uid"] / "volumes/kubernetes.io~rbd" / volume["metadata"]["name"]
        return self.guest.run(f"cat {at}/{shlex.quote(file)} 2>/dev/null", SLOW).output.strip()

    def wait_unmapped(self) -> None:
        """Wait until the kubelet has unmounted and unmapped everything."""
        until(lambda: not self.mapped(), SLOW, "the kubelet has unmapped the image", self.last_words, every=1)

    def plugin_log(self) -> str:
        """What the kubelet's rbd plugin has said."""
        return self.guest.run("grep -h -e ' rbd.go:' -e ' rbd_util.go:' /run/kubelet.log", SLOW).output

    def last_words(self) -> str:
        return self.guest.run("tail -n 20 /run/containerd.log /run/kubelet.log", SLOW).output

    def _start_udev(self) -> None:
        """`rbd map` and `rbd unmap` wait for the word of udevd."""
        unpacked = udev(print)
        (library,) = unpacked.glob("usr/lib/*/systemd")
        self.guest.check(f"ln -s {unpacked}/bin/udevadm /run/systemd-udevd")
        self.guest.check(f"LD_LIBRARY_PATH={library} /run/systemd-udevd --daemon", SLOW)

    def _ready(self) -> bool:
        try:
            status = self.kubernetes.api.get(NODES.path(name=NAME))["status"]
        except NotFound:
            return False
        return any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", []))


@contextmanager
def guest_kubelet(kubernetes: Kubernetes) -> Iterator[GuestKubelet]:
    """The node for the block, ready for pods; the cluster is to have no other."""
    node = Node(kubernetes.directory, _PORT, VERSION, _ADDRESS)
    # before the guest has looked at them: it keeps what it has read once
    node.prepare()
    image.write(node.home / "busybox.tar")
    udev(print)
    with machine(_MEMORY) as guest:
        yield GuestKubelet(guest, kubernetes, node).start()
