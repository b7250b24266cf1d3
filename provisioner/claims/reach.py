"""From which nodes a cluster can be reached: the `segments` of the config file, in the words of the nodes' own labels."""

from collections.abc import Iterable, Mapping

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


def bind_to_nodes(body: Object, selected: Mapping[str, str]) -> None:
    """Have pods that use a PersistentVolume to save run on the selected nodes only."""
    terms = [{"key": key, "operator": "In", "values": [value]} for key, value in sorted(selected.items())]
    if terms:
        body["spec"]["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": terms}]}}
