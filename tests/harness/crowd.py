"""Many claims of one class at once, and the account of what they have come to in Ceph and Kubernetes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from provisioner.claims import objects
from provisioner.claims.quantity import to_bytes
from provisioner.kube.resources import Object
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import Kubernetes
from tests.harness.waiting import until

_OURS_FOR_EVER = ("ceph-provisioner.processes", "ceph-provisioner.purge", "ceph-provisioner.suspects")
_OF_THE_POOL = ("rbd_directory", "rbd_info", "rbd_trash", "rbd_children", "rbd_mirroring", "rbd_namespace")


@dataclass
class Crowd:
    """The claims of one StorageClass, whose images have a pool to themselves."""

    ceph: Ceph
    kubernetes: Kubernetes
    storage_class: str
    pool: str
    made: list[Object] = field(default_factory=list)

    def make(self, count: int, size: str = "1Gi") -> list[Object]:
        with ThreadPoolExecutor(8) as threads:
            claims = list(
                threads.map(lambda _: self.kubernetes.make_claim(self.storage_class, size, volumeMode="Block"), range(count))
            )
        self.made += claims
        return claims

    def delete_all(self) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(self.kubernetes.delete_claim, self.claims()))

    def claims(self) -> list[Object]:
        return [claim for claim in self.kubernetes.claims("default") if objects.class_name(claim) == self.storage_class]

    def volumes(self) -> list[Object]:
        return [volume for volume in self.kubernetes.volumes() if volume["spec"]["storageClassName"] == self.storage_class]

    def wait_settled(self, seconds: float) -> None:
        """Wait until every claim there is has all that it asks for, and nothing is there for those that are gone."""
        until(
            lambda: not self.unsettled(),
            seconds,
            "every claim has what it asks for",
            lambda: "\n".join(self.unsettled()[:20]),
            0.5,
        )

    def unsettled(self) -> list[str]:
        """What is not as the claims want it, one line each."""
        claims = {objects.volume_name(claim): claim for claim in self.claims()}
        volumes = {volume["metadata"]["name"]: volume for volume in self.volumes()}
        told = [line for name, claim in claims.items() if (line := _trouble(claim, volumes.get(name)))]
        told += _difference("PersistentVolume", volumes, claims)
        told += _difference("image", self.ceph.images(self.pool), claims)
        told += _difference("user", [user.removeprefix("client.cp-").split(".")[0] for user in self._users()], claims)
        told += _difference("Secret", [name.removesuffix("-cephx") for name in self._secrets()], claims)
        return told + [f"in the trash: {name}" for name in self.ceph.trash(self.pool)]

    def wrong_sizes(self) -> list[str]:
        """Images that are not of their PersistentVolume's size."""
        told = []
        for volume in self.volumes():
            name, said = volume["metadata"]["name"], volume["spec"]["capacity"]["storage"]
            if (size := self.ceph.info(name, self.pool)["size"]) != to_bytes("capacity", said):
                told.append(f"{name} has {size} bytes and says {said}")
        return told

    def unaccounted_objects(self, living: int) -> list[str]:
        """RADOS objects of the pool that belong to no image, nor to the list of `living` processes of ours."""
        ids = self.ceph.image_ids(self.pool)
        fine = {*_OURS_FOR_EVER, *_OF_THE_POOL, *(f"rbd_id.{name}" for name in ids)}
        fine |= {f"{kind}.{image_id}" for kind in ("rbd_header", "rbd_object_map") for image_id in ids.values()}
        left = [name for name in self.ceph.objects(self.pool) if name not in fine]
        processes = [name for name in left if name.startswith("ceph-provisioner.process.")]
        return [name for name in left if name not in processes] + processes[living:]

    def wait_accounted(self, living: int) -> None:
        """Wait until every object is accounted for; a stall's orphans are looked for a while after it."""
        until(
            lambda: not self.unaccounted_objects(living), 60, "no object is left", lambda: str(self.unaccounted_objects(living))
        )

    def _users(self) -> list[str]:
        names = {objects.volume_name(claim) for claim in self.made}
        return [user for user in self.ceph.users() if user.removeprefix("client.cp-").split(".")[0] in names]

    def _secrets(self) -> list[str]:
        names = {f"{objects.volume_name(claim)}-cephx" for claim in self.made}
        return [name for secret in self.kubernetes.secrets() if (name := secret["metadata"]["name"]) in names]


def _trouble(claim: Object, volume: Object | None) -> str:
    """What keeps a claim from being all well, "" for nothing."""
    name, status = claim["metadata"]["name"], claim.get("status") or {}
    if objects.is_being_deleted(claim):
        return f"{name} is still being deleted, held by {objects.finalizers(claim)}"
    if status.get("phase") != "Bound" or volume is None or claim["spec"].get("volumeName") != objects.volume_name(claim):
        return f"{name} is {status.get('phase')}"
    if objects.CLAIM_FINALIZER in objects.finalizers(claim):
        return f"{name} is bound and still held"
    wanted = to_bytes("requests", claim["spec"]["resources"]["requests"]["storage"])
    has = [to_bytes("capacity", part["capacity"]["storage"]) for part in (status, volume["spec"])]
    return f"{name} asks for {wanted} bytes and has {has}" if min(has) < wanted else ""


def _difference(kind: str, found: object, expected: object) -> list[str]:
    """Names that are on one list only, or twice on the first."""
    found, expected = list(found), set(expected)  # type: ignore[call-overload]
    told = [f"{kind} too many: {name}" for name in found if name not in expected or found.count(name) > 1]
    return told + [f"no {kind}: {name}" for name in expected if name not in found]
