"""The CSI driver's controller, once or more per cluster."""

import logging

import click

from provisioner import wiring
from provisioner.ceph.attachments import CephAttachments
from provisioner.ceph.diff import CephChanges
from provisioner.ceph.groups import CephGroups
from provisioner.ceph.health import CephHealth
from provisioner.ceph.nodes import NodeImages
from provisioner.ceph.reservations import CephReservations
from provisioner.ceph.snapshots import CephSnapshots
from provisioner.config import ConfigFile
from provisioner.core.attachments import Attachments
from provisioner.core.changes import Changes
from provisioner.core.choices import Choices
from provisioner.core.groups import Groups
from provisioner.core.keys import VolumeKeys
from provisioner.core.snapshots import Snapshots
from provisioner.core.volumes import Volumes
from provisioner.key_sweep import KeySweep
from provisioner.kms.build import KeyServices
from provisioner.observe.http import StatusServer

log = logging.getLogger(__name__)


@click.command()
@click.option("--csi-endpoint", required=True, help="The socket to serve CSI on: unix:///PATH.")
@click.option("--driver-name", default="rbd.ceph-provisioner.io", show_default=True, help="The CSI driver's name.")
@click.option("--topology", is_flag=True, help="Nodes tell where they are: make volumes where they can be reached from.")
@click.option("--listen", default="127.0.0.1:9871", show_default=True, help="Where /metrics, /healthz and /readyz are.")
@click.pass_obj
def controller(config: ConfigFile, csi_endpoint: str, driver_name: str, topology: bool, listen: str) -> None:
    """Serve CSI's Identity and Controller: make, grow, list and delete volumes."""
    # imported here: gRPC's 15 MB are for those who serve it
    from csi.serve import Backend, serve
    from provisioner.rpc.server import Listen

    process = wiring.Process()
    ceph, flights = wiring.ceph(config, process.metrics), process.flights()
    places, volumes = ceph.places, Volumes(ceph.store, flights)
    images, services = NodeImages(places.clusters), KeyServices(config.kms, process.metrics.on_kms)
    sweep = KeySweep(images, services)
    status = StatusServer(listen, process.metrics, list, list)
    backend = Backend(
        volumes=volumes,
        clusters=config.clusters,
        places=places.of,
        ask=places.ask,
        read_page=ceph.store.page,
        snapshots=Snapshots(CephSnapshots(places), flights),
        groups=Groups(CephGroups(places), CephSnapshots(places), flights),
        changes=Changes(CephChanges(places)),
        choices=Choices(volumes, CephReservations(places)),
        attachments=Attachments(CephAttachments(places), flights, process.metrics.on_fence),
        health=CephHealth(places),
        keys=VolumeKeys(images, services.get),
        segments=lambda name: dict(config.clusters()[name].segments),
    )
    server = serve(backend, driver_name, Listen(csi_endpoint), process.metrics.on_rpc, topology=topology)
    ends = (server.drain, sweep.stop, ceph.housekeeping.stop)
    process.run(status, f"{driver_name} at {csi_endpoint}", (ceph.housekeeping.start, sweep.start), ends)
