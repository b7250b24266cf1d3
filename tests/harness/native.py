"""A native PersistentVolume and its Secret, and what a guest's kernel makes of them, with nothing else.

What is written to sysfs here is what the in-tree plugin of a kubelet has `rbd map` write: monitors, user, key, pool, image.
"""

from provisioner.kube.resources import Object
from tests.harness.guest import GuestNode
from tests.harness.kubernetes import Kubernetes

_AT = "/run/native"


class NativeVolume:
    """One PersistentVolume with `spec.rbd`. One at a time is mounted."""

    def __init__(self, guest: GuestNode, kubernetes: Kubernetes, volume: Object) -> None:
        self._guest, self.rbd = guest, volume["spec"]["rbd"]
        reference = self.rbd["secretRef"]
        (self.key,) = kubernetes.secret_data(reference["namespace"], reference["name"]).values()

    def map(self, key: str = "") -> bool:
        """Map it, with its own key or another one; whether the kernel and Ceph let us."""
        rbd = self.rbd
        words = f"{','.join(rbd['monitors'])} name={rbd['user']},secret={key or self.key} {rbd['pool']} {rbd['image']} -"
        return self._guest.guest.run(f"echo '{words}' >/sys/bus/rbd/add_single_major", 240).code == 0

    def write(self, text: str) -> None:
        """Make a file system with one file, and unmap."""
        self._mounted(f"mkfs.{self.rbd['fsType']} -q -Enodiscard $device", f"echo {text} >{_AT}/file")

    def read(self) -> str:
        """What the file holds; unmapped afterwards."""
        return self._mounted("true", f"cat {_AT}/file").strip()

    def _mounted(self, before: str, within: str) -> str:
        find = (
            f"number=$(basename $(dirname $(grep -lx {self.rbd['image']} /sys/bus/rbd/devices/*/name))); device=/dev/rbd$number"
        )
        steps = ["mkdir -p " + _AT, find, before, f"mount $device {_AT}", within, f"umount {_AT}"]
        return self._guest.run(" && ".join([*steps, "echo $number >/sys/bus/rbd/remove_single_major"]))
