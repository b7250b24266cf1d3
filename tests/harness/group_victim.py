"""A process of ours to be killed while it takes or deletes a group snapshot: `python -m tests.harness.group_victim CONFIG-JSON
ACTION STEP VOLUME...`. It says `at STEP` when it gets there, and waits for its end.
"""

import json
import signal
import sys
from collections.abc import Callable
from typing import Any

from provisioner.ceph import standstill
from provisioner.ceph.cluster import ClusterConfig
from provisioner.ceph.groups import CephGroups
from provisioner.ceph.snapshots import CephSnapshots
from provisioner.core.groups import GroupRequest
from provisioner.core.ids import Place, VolumeId, group_id
from tests.harness.store import Provisioner

NAME = "nightly"
STEPS: dict[str, tuple[type, str, bool]] = {
    "roll": (CephGroups, "write", True),
    "claim": (CephSnapshots, "claim", True),
    "locked": (standstill._Held, "snapshot", False),
    "snapshot": (standstill._Held, "snapshot", True),
    "taken": (CephGroups, "_marked", False),
    "mark": (CephGroups, "_marked", True),
    "wiped": (CephGroups, "_wipe", True),
}
"""The method at whose first call it stops, and whether behind it."""


def main() -> None:
    raw, action, step, *volumes = sys.argv[1:]
    told = json.loads(raw)
    place = Place("dev", told["pool"], told["namespace"])
    home = (f"{place.pool}/{place.namespace}",)
    process = Provisioner(ClusterConfig("dev", conf=told["conf"], user=told["user"], keyring=told["keyring"], pools=home))
    process.volumes.attend(place)
    _stop_at(step)
    if action == "take":
        process.groups.create(GroupRequest(NAME, [VolumeId(place, volume) for volume in volumes]))
    else:
        process.groups.delete(group_id(place, NAME))


def _stop_at(step: str) -> None:
    kind, method, behind = STEPS[step]
    real: Callable[..., Any] = getattr(kind, method)

    def stopping(*given: Any, **named: Any) -> None:
        if behind:
            real(*given, **named)
        sys.stdout.write(f"at {step}\n")
        sys.stdout.flush()
        while True:
            signal.sigwait([signal.SIGUSR1])

    setattr(kind, method, stopping)


if __name__ == "__main__":
    main()
