"""Claims of a class with several pools: made where a pod can reach it, once, and gone from wherever it was. About 30 seconds."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.claims.quantity import to_bytes
from provisioner.kube.resources import CSI_STORAGE_CAPACITIES, Object
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import NAMESPACE, Kubernetes
from tests.harness.nodes import node_of, nodes, pod_using
from tests.harness.program import Program, running
from tests.harness.store import quota
from tests.harness.traces import traces, wait_no_traces
from tests.harness.waiting import until

ZONE = "topology.kubernetes.io/zone"
EAST, WEST = f"east-{uuid.uuid4().hex[:6]}", f"west-{uuid.uuid4().hex[:6]}"
PLACES = "ceph-provisioner.places."


@pytest.fixture(scope="module")
def zones(kubernetes: Kubernetes) -> Iterator[dict[str, str]]:
    """Nodes by the zone that they are in: each has a pool of its name."""
    with nodes(kubernetes, "v1.30.14", "v1.30.14", labels=[{ZONE: EAST}, {ZONE: WEST}]) as names:
        yield dict(zip((EAST, WEST), names, strict=True))


@pytest.fixture(scope="module")
def program(ceph: Ceph, account: Path, zones: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    for pool in (EAST, WEST):
        ceph.make_pool(pool)
        ceph.let_provision(pool)
        with ceph.admin_pool(pool) as opened:
            opened.write_full("something", bytes(4096))  # a quota of a byte is reached
    directory = tmp_path_factory.mktemp("pools")
    try:
        with running(directory, ceph.config_file(directory), account, "--capacity-interval", "1") as made:
            yield made
    finally:
        for pool in (EAST, WEST):
            ceph.drop_pool(pool)


def make_class(kubernetes: Kubernetes, program: Program, *, waits: bool = False, allowed: tuple[str, ...] = ()) -> str:
    """A class over both pools, the eastern one first."""
    pools = [{"poolName": zone, "domainSegments": [{"domainLabel": "zone", "value": zone}]} for zone in (EAST, WEST)]
    fields: Object = {"volumeBindingMode": "WaitForFirstConsumer" if waits else "Immediate"}
    if allowed:
        fields["allowedTopologies"] = [{"matchLabelExpressions": [{"key": ZONE, "values": list(allowed)}]}]
    return kubernetes.make_class(program.provisioner, {"topologyConstrainedPools": json.dumps(pools)}, **fields)


def pools_with(ceph: Ceph, claim: Object) -> list[str]:
    name = f"pvc-{claim['metadata']['uid']}"
    return [pool for pool in (EAST, WEST) if name in ceph.images(pool)]


def is_noted(ceph: Ceph, claim: Object) -> bool:
    """Tell whether the class's home has a note of the pool that was chosen for the claim."""
    notes = [str(ceph.omap(each, EAST)) for each in ceph.objects(EAST) if each.startswith(PLACES)]
    return f"pvc-{claim['metadata']['uid']}" in "".join(notes)


def zones_of(volume: Object) -> list[str]:
    (term,) = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    (expression,) = term["matchExpressions"]
    assert expression["key"] == ZONE
    values: list[str] = expression["values"]
    return values


@pytest.mark.parametrize("zone", [EAST, WEST], ids=["east", "west"])
def test_the_volume_is_made_where_the_scheduler_sends_the_pod(
    ceph: Ceph, kubernetes: Kubernetes, program: Program, zones: dict[str, str], zone: str
) -> None:
    claim = kubernetes.make_claim(make_class(kubernetes, program, waits=True))
    with pod_using(kubernetes, claim, selector={ZONE: zone}) as pod:
        volume = kubernetes.wait_bound(claim)
        assert pools_with(ceph, claim) == [zone]
        assert zones_of(volume) == [zone]
        assert until(lambda: node_of(kubernetes, pod), 120, "the pod has a node") == zones[zone]


def test_at_once_it_is_made_in_the_classs_first_pool(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    claim = kubernetes.make_claim(make_class(kubernetes, program))
    assert zones_of(kubernetes.wait_bound(claim)) == [EAST]
    assert pools_with(ceph, claim) == [EAST]


def test_allowed_topologies_are_kept_to(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    claim = kubernetes.make_claim(make_class(kubernetes, program, allowed=(WEST,)))
    assert zones_of(kubernetes.wait_bound(claim)) == [WEST]
    nowhere = kubernetes.make_claim(make_class(kubernetes, program, allowed=("elsewhere",)))
    kubernetes.wait_event(nowhere, "ProvisioningFailed", "no pool of the class can be reached")
    assert pools_with(ceph, nowhere) == []


def test_a_pool_without_room_makes_way_for_the_next(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    storage_class = make_class(kubernetes, program)
    with quota(ceph, EAST, 1):
        claim = kubernetes.make_claim(storage_class)
        assert zones_of(kubernetes.wait_bound(claim)) == [WEST]
    assert pools_with(ceph, claim) == [WEST]
    kubernetes.delete_claim(claim)
    until(lambda: not pools_with(ceph, claim) and kubernetes.volume_of(claim) is None, 120, "it is gone from the other pool")


def test_deleted_it_is_gone_with_the_note_of_its_choice(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    claim = kubernetes.make_claim(make_class(kubernetes, program, allowed=(WEST,)))
    kubernetes.wait_bound(claim)
    assert is_noted(ceph, claim)
    kubernetes.delete_claim(claim)
    wait_no_traces(claim, ceph, kubernetes, WEST)
    assert not is_noted(ceph, claim)


def test_killed_when_it_was_made_it_is_found_again_or_goes(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    storage_class = make_class(kubernetes, program, allowed=(WEST,))
    claims = [kubernetes.make_claim(storage_class) for _ in range(6)]
    until(lambda: any(pools_with(ceph, claim) for claim in claims), 120, "the first is made", every=0.01)
    program.kill()
    for claim in claims[::2]:
        kubernetes.delete_claim(claim)
    program.start()
    for claim in claims[1::2]:
        kubernetes.wait_bound(claim)
        assert pools_with(ceph, claim) == [WEST]
    for claim in claims[::2]:
        wait_no_traces(claim, ceph, kubernetes, WEST)
        assert traces(claim, ceph, kubernetes, EAST) == []


def test_each_zone_is_told_what_its_pool_can_give(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    storage_class = make_class(kubernetes, program)

    def told() -> dict[str, int]:
        listed = kubernetes.api.list_all(CSI_STORAGE_CAPACITIES.path(NAMESPACE)).items
        ours = [item for item in listed if item["storageClassName"] == storage_class]
        return {item["nodeTopology"]["matchLabels"][ZONE]: to_bytes("capacity", item["capacity"]) for item in ours}

    until(lambda: told().keys() == {EAST, WEST}, 120, "both zones are told of", lambda: str(told()))
    with quota(ceph, WEST, 1):
        until(lambda: told()[WEST] == 0 < told()[EAST], 120, "the full one is told as full", lambda: str(told()))
