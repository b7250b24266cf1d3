"""The command line of hack/demo."""

import subprocess
import sys
from pathlib import Path

from hack.kubernetes.node import Node

from . import pod
from .cluster import ROOT, Demo, stop_provisioner

USAGE = """\
The main job, shown: claims on a real Kubernetes become images in a real Ceph and bound PersistentVolumes, and pods use one.

    hack/demo run DIR     start both clusters and the provisioner in DIR, show the story, leave all running
    hack/demo stop DIR    stop and remove them
"""


def run(directory: Path) -> None:
    """Show all of it; where no pod can run, all but that, and fail saying why."""
    missing = Node(directory / "kubernetes", 0, "1.30").missing()
    demo = Demo(directory, *([] if missing else ["--kubelet"]))
    demo.run()
    if not missing:
        pod.PodDemo(demo, demo.kubernetes["node"], demo.kubernetes["kubelet"]).run()
    demo.goodbye()
    if missing:
        sys.exit(f"\ndemo: there was no pod to be seen, since this machine can't run one: {missing}")


def stop(directory: Path) -> None:
    """Stop and remove what there is; pods first, as long as somebody can take their volumes down."""
    stop_provisioner(directory)
    _purge("dev-kubernetes", directory / "kubernetes")
    pod.stop(directory)
    _purge("dev-ceph", directory / "ceph")


def _purge(tool: str, home: Path) -> None:
    if home.exists() and subprocess.run([str(ROOT / "hack" / tool), "stop", str(home), "--purge"]).returncode:
        sys.exit(f"demo: {home} is still there; try again once what is in the way is gone")


def main() -> None:
    """Run or stop."""
    match sys.argv[1:]:
        case ["run", directory]:
            run(Path(directory).resolve())
        case ["stop", directory]:
            stop(Path(directory).resolve())
        case _:
            sys.exit(USAGE)
