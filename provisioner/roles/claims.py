"""The claims role: PersistentVolumeClaims of a Kubernetes, answered with volumes of Ceph and, where there is a cloud, Cinder."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

import provisioner
from provisioner import wiring
from provisioner.ceph.keys import Keys
from provisioner.ceph.nodes import NodeImages
from provisioner.ceph.reservations import CephReservations
from provisioner.config import ConfigFile
from provisioner.core.by_cluster import by_cluster
from provisioner.core.choices import Choices
from provisioner.core.keys import VolumeKeys
from provisioner.core.ports import VolumeStore
from provisioner.core.volumes import Volumes
from provisioner.kms.build import KeyServices
from provisioner.observe.http import StatusServer

if TYPE_CHECKING:
    from provisioner.claims.connected import Exports

_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@click.command()
@click.option("--kubeconfig", "kubeconfig_file", default="", help="A kubeconfig; in a pod, the service account if left out.")
@click.option("--provisioner", "name", required=True, help="The name in `provisioner:` of the StorageClasses to serve.")
@click.option("--namespace", default="", help="Where Secrets and the lease live; the pod's own, or ceph-provisioner.")
@click.option("--lease", default="", help="Replicas that share this Lease work one at a time; made from --provisioner.")
@click.option("--csi-driver", default="", help="The driver name in csi PersistentVolumes; as --provisioner if left out.")
@click.option("--listen", default="127.0.0.1:9870", show_default=True, help="Where /metrics, /healthz and /readyz are.")
@click.option("--workers", default=16, show_default=True, type=click.IntRange(1, 128), help="Claims worked on at once.")
@click.option(
    "--capacity-interval",
    default=60.0,
    show_default=True,
    type=click.FloatRange(1, 3600),
    help="Seconds between two looks at what each class can still give (CSIStorageCapacity).",
)
@click.pass_obj
def claims(
    config: ConfigFile,
    kubeconfig_file: str,
    name: str,
    namespace: str,
    lease: str,
    csi_driver: str,
    listen: str,
    workers: int,
    capacity_interval: float,
) -> None:
    """Answer PersistentVolumeClaims with PersistentVolumes."""
    from provisioner.claims.controller import Controller, Options
    from provisioner.kube import kubeconfig
    from provisioner.kube.transport import Api, Limits

    namespace = namespace or _own_namespace()
    options = Options(name, namespace, lease or name.replace("/", "-").lower(), csi_driver or name, workers, capacity_interval)
    process = wiring.Process()
    access = kubeconfig.load(kubeconfig_file)
    agent = f"ceph-provisioner/{provisioner.__version__}"
    api = Api(access, agent, Limits(connections=workers * 2 + 8), process.metrics.on_call)
    lease_api = Api(access, agent, Limits(connections=2), process.metrics.on_call)
    ceph = wiring.ceph(config, process.metrics)
    exports, store = _exports(config, ceph)
    volumes = Volumes(store, process.flights())
    choices = Choices(volumes, CephReservations(ceph.places))
    keys = VolumeKeys(NodeImages(ceph.places.clusters), KeyServices(config.kms, process.metrics.on_kms).get)
    controller = Controller(api, lease_api, volumes, choices, keys, config.clusters, options, process.metrics, exports)
    status = StatusServer(listen, process.metrics, controller.unhealthy, controller.unready)
    ends = (controller.stop, ceph.housekeeping.stop, api.close, lease_api.close)
    process.run(status, name, (ceph.housekeeping.start, controller.start), ends)


def _exports(config: ConfigFile, ceph: wiring.Ceph) -> "tuple[Exports | None, VolumeStore]":
    """Cinder beside Ceph, if the config file names a cloud."""
    if not config.clouds():
        return None, ceph.store
    # imported here: the OpenStack SDK's 40 MB are for those who have one
    from provisioner.cinder.api import Clouds
    from provisioner.cinder.store import CinderStore
    from provisioner.claims.connected import Exports

    cinder = CinderStore(Clouds(config.clouds))
    store = by_cluster(ceph.store, cinder, config.clouds)
    return Exports(cinder, Keys(ceph.places.clusters).find, config.clouds), store


def _own_namespace() -> str:
    try:
        return _SERVICE_ACCOUNT_NAMESPACE.read_text().strip()
    except OSError:
        return "ceph-provisioner"
