"""The daemons' command lines, and why each flag is as it is.

All run in the cluster's directory, so that files are named relative to it. etcd listens on sockets in that directory
only: no port, no open door for the machine's other users, and less CPU than TCP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ETCD = "unix://etcd.sock:0"
ETCD_PEERS = "unix://etcd-peers.sock:0"

# What claims, volumes, pods, namespaces and service accounts need. Off: workloads, nodes' life cycle, quotas, certificates.
CONTROLLERS = (
    "persistentvolume-binder-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "ephemeral-volume-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "root-ca-certificate-publisher-controller",
    "clusterrole-aggregation-controller",
)
# The defaults (20 to 50 a second) would make a burst of claims measure the daemons' own limit.
FAST_CLIENT = ("--kube-api-qps=500", "--kube-api-burst=1000")


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports on 127.0.0.1."""

    apiserver: int
    controller_manager: int
    scheduler: int


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the binaries."""

    etcd: Path
    hyperkube: Path


def etcd(programs: Programs) -> tuple[str, ...]:
    """One member, nothing synced to disk: a test cluster does not outlive a crash of its machine."""
    return (
        str(programs.etcd),
        "--name=dev",
        "--data-dir=etcd",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={ETCD_PEERS}",
        f"--initial-advertise-peer-urls={ETCD_PEERS}",
        f"--initial-cluster=dev={ETCD_PEERS}",
        "--unsafe-no-fsync",
        "--logger=zap",
        "--log-level=warn",
    )


def apiserver(programs: Programs, ports: Ports, extra: Sequence[str]) -> tuple[str, ...]:
    """RBAC on. Nodes come up without the not-ready taint, since nobody runs that would take it away."""
    return (
        str(programs.hyperkube),
        "kube-apiserver",
        f"--etcd-servers={ETCD}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports.apiserver}",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        "--tls-cert-file=pki/server.crt",
        "--tls-private-key-file=pki/server.key",
        "--client-ca-file=pki/ca.crt",
        "--authorization-mode=Node,RBAC",
        "--service-account-key-file=pki/accounts.key",
        "--service-account-signing-key-file=pki/accounts.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--disable-admission-plugins=TaintNodesByCondition",
        # nodes' plugins are privileged
        "--allow-privileged=true",
        "--kubelet-client-certificate=pki/admin.crt",
        "--kubelet-client-key=pki/admin.key",
        "--kubelet-preferred-address-types=Hostname",
        "--event-ttl=1h",
        "--profiling=false",
        *extra,
    )


def controller_manager(programs: Programs, ports: Ports, extra: Sequence[str]) -> tuple[str, ...]:
    """The volume controllers and what they stand on. `--controllers=*` in `extra` adds all the others."""
    return (
        str(programs.hyperkube),
        "kube-controller-manager",
        *_server("kube-controller-manager", ports.controller_manager),
        f"--controllers={','.join(CONTROLLERS)}",
        # Without it every controller has the rights of kube-controller-manager itself, which cannot bind a volume.
        "--use-service-account-credentials=true",
        "--service-account-private-key-file=pki/accounts.key",
        "--root-ca-file=pki/ca.crt",
        # A claim that names its volume before the volume exists is looked at again only at this pace.
        "--pvclaimbinder-sync-period=2s",
        "--attach-detach-reconcile-sync-period=10s",
        *FAST_CLIENT,
        *extra,
    )


def scheduler(programs: Programs, ports: Ports) -> tuple[str, ...]:
    """Chooses nodes for pods, and so for claims that wait for their first consumer."""
    return (str(programs.hyperkube), "kube-scheduler", *_server("kube-scheduler", ports.scheduler), *FAST_CLIENT)


def _server(name: str, port: int) -> tuple[str, ...]:
    """What the two clients of the API server, which are servers of /healthz and /metrics too, have in common."""
    return (
        f"--kubeconfig={name}.kubeconfig",
        f"--authentication-kubeconfig={name}.kubeconfig",
        f"--authorization-kubeconfig={name}.kubeconfig",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--tls-cert-file=pki/server.crt",
        "--tls-private-key-file=pki/server.key",
        "--leader-elect=false",
        "--profiling=false",
    )
