"""A dead client's watcher that Ceph never forgets does not keep a volume once the client is fenced. About 10 s."""

from tests.harness.ceph import Ceph
from tests.harness.crowd import Crowd
from tests.harness.ghost import leave_watcher
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program


def test_a_fenced_client_that_is_still_listed_as_a_watcher_keeps_nothing(
    ceph: Ceph, kubernetes: Kubernetes, pool: str, program: Program
) -> None:
    program.start()
    crowd = Crowd(ceph, kubernetes, kubernetes.make_class(program.provisioner, {"pool": pool}), pool)
    (claim,) = crowd.make(1)
    volume = kubernetes.wait_bound(claim)["metadata"]["name"]
    address = leave_watcher(ceph, pool, f"rbd_header.{ceph.image_ids(pool)[volume]}")
    ceph.command("osd blocklist", blocklistop="add", addr=address)
    crowd.delete_all()
    crowd.wait_settled(40)
    assert crowd.unaccounted_objects(living=1) == []
