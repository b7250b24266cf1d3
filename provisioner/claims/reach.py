"""From which nodes a volume can be reached, and where it is wanted, in the words of the nodes' own labels.

A cluster has the `segments` of the config file, a pool of several those of its class.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

from provisioner.core.topology import Segments, keys_of
from provisioner.kube.resources import Object


def selector(segments: Segments, nodes: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Labels of the nodes that reach a cluster with these segments; {} for all nodes. `nodes` are the labels of each.

    A domain label may be the last part of a node's label only: the nodes know the rest. Where no node reaches the cluster,
    it is taken for Kubernetes' own, so that none that comes later is taken for one that does.
    """
    if not segments:
        return {}
    for labels in nodes:
        if (keys := keys_of(segments, labels)) is not None:
            return keys
    return {label if "/" in label else f"topology.kubernetes.io/{label}": value for label, value in segments.items()}


def wanted_from(
    selected: Segments | None, allowed: Sequence[Mapping[str, Collection[str]]], nodes: Iterable[Segments]
) -> list[Segments]:
    """Topologies to reach a volume from, as external-provisioner asks for them: that of the `selected` node first; [] for any.

    The others are of the nodes that the class's `allowedTopologies` allow, and what these allow where no node is yet.
    """
    first = [] if selected is None else [selected]
    if not allowed:
        return [*first, *nodes] if first else []
    there = [labels for labels in nodes if any(_allows(term, labels) for term in allowed)]
    return first + there + [topology for term in allowed for topology in _spelled_out(term)]


def _allows(term: Mapping[str, Collection[str]], labels: Segments) -> bool:
    return all(labels.get(key) in values for key, values in term.items())


def _spelled_out(term: Mapping[str, Collection[str]]) -> list[Segments]:
    """Every combination of a term's values."""
    return [dict(zip(term, values, strict=True)) for values in itertools.product(*map(sorted, term.values()))]


def bind_to_nodes(body: Object, selected: Mapping[str, str]) -> None:
    """Have pods that use a PersistentVolume to save run on the selected nodes only."""
    terms = [{"key": key, "operator": "In", "values": [value]} for key, value in sorted(selected.items())]
    if terms:
        body["spec"]["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": terms}]}}
