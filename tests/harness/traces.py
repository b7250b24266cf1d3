"""What a claim has left behind, anywhere."""

from provisioner.kube.resources import Object
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import PATIENCE, Kubernetes
from tests.harness.waiting import until


def traces(claim: Object, ceph: Ceph, kubernetes: Kubernetes, pool: str = "") -> list[str]:
    """Everything in Ceph and Kubernetes that was made for the claim; the trash is not asked."""
    name = f"pvc-{claim['metadata']['uid']}"
    found = [f"image {image}" for image in ceph.images(pool) if image == name]
    found += [f"user {user}" for user in ceph.users() if name in user]
    found += [f"Secret {s['metadata']['name']}" for s in kubernetes.secrets() if name in s["metadata"]["name"]]
    return found + ([f"PersistentVolume {name}"] if kubernetes.volume_of(claim) else [])


def wait_no_traces(claim: Object, ceph: Ceph, kubernetes: Kubernetes, pool: str = "", seconds: float = PATIENCE) -> None:
    """Wait until the claim is gone, and all that was made for it."""

    def left() -> list[str]:
        there = kubernetes.claim(claim)
        return ([f"the claim {there['metadata']}"] if there else []) + traces(claim, ceph, kubernetes, pool)

    until(lambda: not left(), seconds, "nothing is left of the claim", lambda: "\n".join([*left(), str(kubernetes.told(claim))]))
