"""The CSI driver's role on each machine, and what a person does there. It imports no more than it needs: it runs everywhere."""

import logging
import threading
from pathlib import Path

import click

from provisioner import wiring
from provisioner.ceph.attachments import CephAttachments
from provisioner.ceph.cluster import Clusters
from provisioner.ceph.nodes import NodeImages
from provisioner.ceph.places import Places
from provisioner.config import ConfigFile
from provisioner.core.attachments import Attachments
from provisioner.core.errors import InvalidRequest
from provisioner.core.ids import VolumeId
from provisioner.core.keys import VolumeKeys
from provisioner.host.build import host_node, key_rotation
from provisioner.host.clients import Clients
from provisioner.host.node import Node
from provisioner.kms.build import KeyServices
from provisioner.observe.http import StatusServer

log = logging.getLogger(__name__)


@click.command()
@click.option("--csi-endpoint", required=True, help="The socket to serve CSI on: unix:///PATH.")
@click.option("--node-id", required=True, help="This node's name, as the cluster manager has it.")
@click.option("--driver-name", default="rbd.ceph-provisioner.io", show_default=True, help="The CSI driver's name.")
@click.option("--listen", default="127.0.0.1:9872", show_default=True, help="Where /metrics, /healthz and /readyz are.")
@click.option("--mounter", default="auto", show_default=True, help="The kind of device for volumes whose class names none.")
@click.option("--run-directory", default="/run/ceph-provisioner", show_default=True, type=click.Path(path_type=Path))
@click.option("--topology", multiple=True, metavar="KEY=VALUE", help="Where this node is; may be given several times.")
@click.option("--kubelet-registration", default="", metavar="DIR", help="The kubelet's plugins_registry, to register there.")
@click.option("--read-affinity", default="", metavar="rack:R|host:H", help="CRUSH location: read from the nearest replica.")
@click.option("--max-volumes", default=0, type=click.IntRange(0), help="How many volumes this node takes; 0: any number.")
@click.pass_obj
def node(
    config: ConfigFile,
    csi_endpoint: str,
    node_id: str,
    driver_name: str,
    listen: str,
    mounter: str,
    run_directory: Path,
    topology: tuple[str, ...],
    kubelet_registration: str,
    read_affinity: str,
    max_volumes: int,
) -> None:
    """Serve CSI's Identity and Node: attach, format, mount and grow volumes on this machine."""
    from csi.node import Place as NodePlace
    from csi.pulse import Pulse
    from csi.registration import Registration, serve_registration
    from csi.serve_node import serve_node
    from provisioner.rpc.server import Listen

    place = NodePlace(node_id, dict(_pair(text) for text in topology), max_volumes)
    process = wiring.Process()
    places = Places(Clusters(config.clusters))
    images = NodeImages(places.clusters)
    clients = Clients(Attachments(CephAttachments(places)), node_id, max_volumes)
    keys = VolumeKeys(images, KeyServices(config.kms, process.metrics.on_kms).get)
    volumes = host_node(images, clients, run_directory, process.flights(), keys, mounter, read_affinity)
    pulse = Pulse(config.clusters, places.ask)
    server = serve_node(volumes, place, pulse, driver_name, Listen(csi_endpoint), process.metrics.on_rpc)
    registration, doors = Registration(driver_name, str(server.path)), [server]
    if kubelet_registration:
        socket = f"unix://{kubelet_registration}/{driver_name}-reg.sock"
        doors.insert(0, serve_registration(registration, Listen(socket, permits=1, queue=1), process.metrics.on_rpc))
    status = StatusServer(listen, process.metrics, registration.refusals, list)
    joining = threading.Thread(target=_stay_joined, args=(process.stop, volumes, config, dict(place.topology)), daemon=True)
    # without it, controllers would take this process for dead and have Ceph cut it off
    beating = threading.Thread(target=places.heartbeat, args=(process.stop,), name="heartbeat", daemon=True)
    ends = [*(door.drain for door in doors), places.leave]
    process.run(status, f"{driver_name} at {csi_endpoint}", (joining.start, beating.start), ends)


@click.command("rotate-key")
@click.argument("volume")
@click.option("--passphrase-file", type=click.Path(path_type=Path), help="The passphrase of the volume's secret, if it has one.")
@click.option("--new-passphrase-file", type=click.Path(path_type=Path), help="What is to take its place.")
@click.option("--mounter", default="auto", show_default=True, help="The kind of device, for a volume that is not staged here.")
@click.option("--run-directory", default="/run/ceph-provisioner", show_default=True, type=click.Path(path_type=Path))
@click.pass_obj
def rotate_key(
    config: ConfigFile,
    volume: str,
    passphrase_file: Path | None,
    new_passphrase_file: Path | None,
    mounter: str,
    run_directory: Path,
) -> None:
    """Give an encrypted VOLUME another key: on the node where it is staged, or on any while nobody has it open."""
    places = Places(Clusters(config.clusters))
    images, attachments = NodeImages(places.clusters), Attachments(CephAttachments(places))
    keys = VolumeKeys(images, KeyServices(config.kms).get)
    passphrase, new = (file.read_text().rstrip("\n") if file else "" for file in (passphrase_file, new_passphrase_file))
    stop = threading.Event()
    threading.Thread(target=places.heartbeat, args=(stop,), name="heartbeat", daemon=True).start()
    try:
        key_rotation(images, keys, attachments, run_directory, mounter).rotate(VolumeId.parse(volume), passphrase, new)
    finally:
        stop.set()
        places.leave()
    click.echo(f"{volume} has another key")


def _stay_joined(stop: threading.Event, volumes: Node, config: ConfigFile, topology: dict[str, str]) -> None:
    """Have every cluster know this node: at once, soon again where that fails, and now and then for clusters that came later."""
    pause = 0.0
    while not stop.wait(pause):
        failed = volumes.join(list(config.clusters()), topology)
        for why in failed:
            log.warning("not known in cluster %s", why)
        pause = 5.0 if failed else 300.0


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals or not value:
        raise InvalidRequest("--topology", text, "must be KEY=VALUE")
    return key, value
