"""Which pool of several a claim's volume is made in: the one that was chosen before, else by where it is wanted."""

from provisioner.claims import objects
from provisioner.claims.classes import Class
from provisioner.claims.nodes import Kubelets
from provisioner.claims.reach import wanted_from
from provisioner.core.choices import Choices, Reachable, suitable
from provisioner.core.model import CreateRequest, Volume
from provisioner.kube.resources import Object


class Selection:
    """Chooses among the pools of a class."""

    def __init__(self, choices: Choices, kubelets: Kubelets) -> None:
        self._choices, self._kubelets = choices, kubelets

    def pools(self, claim: Object, storage_class: Class, request: CreateRequest) -> list[Reachable]:
        """Those to try, one after the other: what an earlier try chose, then what the selected node reaches, then the others.

        Raises NoPool, and Unavailable while the selected node isn't known.
        """
        pools, node = storage_class.pools(), objects.selected_node(claim)
        selected = self._kubelets.labels_of(node) if node else None
        nodes = self._kubelets.labels() if node or storage_class.allowed else []
        found = suitable(pools, wanted_from(selected, storage_class.allowed, nodes))
        if objects.CLAIM_FINALIZER not in objects.finalizers(claim):
            return found
        before = self._choices.chosen_before(request, [pool.candidate for pool in pools])
        return sorted(found, key=lambda pool: pool.candidate != before)

    def create(self, request: CreateRequest, storage_class: Class, pool: Reachable) -> Volume:
        """Make the volume there, or give the one that was made. Raises what `Choices.create` raises."""
        return self._choices.create(request, [each.candidate for each in storage_class.pools()], [pool.candidate])
