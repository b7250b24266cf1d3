"""The API server is killed in the middle of a burst of claims, and comes back: nothing is lost or twice. About 20 s."""

from collections.abc import Callable

from tests.harness.ceph import Ceph
from tests.harness.crowd import Crowd
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.waiting import until


def test_a_burst_survives_a_killed_api_server(
    ceph: Ceph, kubernetes: Kubernetes, pool: str, program: Program, say: Callable[[str], None]
) -> None:
    program.start()
    crowd = Crowd(ceph, kubernetes, kubernetes.make_class(program.provisioner, {"pool": pool}), pool)
    crowd.make(60)
    until(lambda: len(ceph.images(pool)) > 10, 120, "the burst is under way", every=0.02)
    say("kube-apiserver is killed")
    with kubernetes.killed("kube-apiserver"):
        made = len(ceph.images(pool))
        until(lambda: program.page("/readyz")[0] == 503, 120, "the program says that it hears nothing")
        said = program.page("/readyz")[1]
        health = program.page("/healthz")
    say(f"kube-apiserver is back; {made} of 60 images were made")
    until(lambda: program.page("/readyz")[0] == 200, 120, "the program hears again", program.text)
    crowd.wait_settled(120)
    assert (len(crowd.claims()), len(crowd.volumes()), len(ceph.images(pool))) == (60, 60, 60)
    assert health == (200, "ok\n")
    assert "/api/v1/persistentvolumeclaims: " in said
    assert made < 60
    crowd.delete_all()
    crowd.wait_settled(120)
    assert crowd.unaccounted_objects(living=1) == []
