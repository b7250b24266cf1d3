"""The parameters of a StorageClass whose backend is Cinder: what its predecessors called them, and no silent typo."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from provisioner.cinder.cloud import POOL
from provisioner.cinder.offering import Offering
from provisioner.core.errors import InvalidRequest
from provisioner.core.parameters import ClassParameters, read_parameters

_CINDERS = {"cloud": "cloud", "type": "type", "availability": "availability", "smartclone": "smartclone"}
"""Lower case, and as spelled; any of them makes the class one of Cinder's."""
_COMMON = {
    "fstype": "csi.storage.k8s.io/fstype",
    "csi.storage.k8s.io/fstype": "csi.storage.k8s.io/fstype",
    "usersecretname": "userSecretName",
    "usersecretnamespace": "userSecretNamespace",
}


def is_cinders(given: Mapping[str, str], clouds: Collection[str], clusters: Collection[str]) -> bool:
    """Tell whether a class with these parameters means Cinder: it says so, or there is nothing else."""
    return any(name.lower() in _CINDERS for name in given) or bool(clouds and not clusters)


def read(given: Mapping[str, str], clouds: Collection[str]) -> ClassParameters:
    """Check the parameters. Raises InvalidRequest naming the one at fault and its value."""
    said: dict[str, str] = {}
    known = _CINDERS | _COMMON
    for name, value in given.items():
        if name.lower() not in known:
            told = ", ".join(dict.fromkeys(known.values()))
            raise InvalidRequest(f"parameters.{name}", value, f"unknown parameter of a class of Cinder's; known: {told}")
        if said.setdefault(known[name.lower()], value) != value:
            raise InvalidRequest(f"parameters.{name}", value, "is given twice, differently")
    if said.get("smartclone", "true") not in ("true", "false"):
        raise InvalidRequest("parameters.smartclone", said["smartclone"], "must be true or false")
    common = read_parameters({name: value for name, value in said.items() if name in _COMMON.values()})
    offering = Offering(type=said.get("type", ""), zone=said.get("availability", ""))
    return replace(common, cluster=_cloud(said.get("cloud", ""), clouds), pool=POOL, layout=offering)


def _cloud(said: str, clouds: Collection[str]) -> str:
    if not said and len(clouds) == 1:
        return next(iter(clouds))
    if said not in clouds:
        why = f"must be one of `clouds` in the config file: {', '.join(sorted(clouds)) or 'it names none'}"
        raise InvalidRequest("parameters.cloud", said, why)
    return said
