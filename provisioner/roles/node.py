"""The CSI driver's role on each machine, and what a person does there. It imports no more than it needs: it runs everywhere."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

import provisioner
from provisioner import wiring
from provisioner.ceph.attachments import CephAttachments
from provisioner.ceph.cluster import Clusters
from provisioner.ceph.nodes import NodeImages
from provisioner.ceph.places import Places
from provisioner.config import ConfigFile
from provisioner.core.attachments import Attachments
from provisioner.core.errors import InvalidRequest, ProvisionerError, Unavailable
from provisioner.core.ids import VolumeId
from provisioner.core.keys import VolumeKeys
from provisioner.host.build import host_node, key_rotation
from provisioner.host.clients import Clients
from provisioner.host.locality import Labels, Locality
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
@click.option(
    *("--crush-location", "--read-affinity", "location"),
    default="",
    metavar="rack:R|host:H",
    help="Where this node is in CRUSH, to read from the nearest replica.",
)
@click.option("--crush-location-labels", default="", metavar="LABEL,...", help="The node's labels in Kubernetes that say so.")
@click.option("--kubeconfig", "kubeconfig_file", default="", help="For those labels; in a pod, the service account if left out.")
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
    location: str,
    crush_location_labels: str,
    kubeconfig_file: str,
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
    locality = _locality(location, crush_location_labels, lambda: _labels(kubeconfig_file, node_id, process))
    clients = Clients(Attachments(CephAttachments(places)), node_id, max_volumes)
    images = NodeImages(places.clusters)
    keys = VolumeKeys(images, KeyServices(config.kms, process.metrics.on_kms).get)
    volumes = host_node(images, clients, run_directory, process.flights(), keys, mounter, locality)
    pulse = Pulse(config.clusters, places.ask)
    server = serve_node(volumes, place, pulse, driver_name, Listen(csi_endpoint), process.metrics.on_rpc)
    registration, doors = Registration(driver_name, str(server.path)), [server]
    if kubelet_registration:
        socket = f"unix://{kubelet_registration}/{driver_name}-reg.sock"
        doors.insert(0, serve_registration(registration, Listen(socket, permits=1, queue=1), process.metrics.on_rpc))
    status = StatusServer(listen, process.metrics, registration.refusals, list)
    joins = [lambda: volumes.join(list(config.clusters()), dict(place.topology)), lambda: _looked(locality)]
    joining = threading.Thread(target=_stay_joined, args=(process.stop, joins), daemon=True)
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


def _stay_joined(stop: threading.Event, joins: Sequence[Callable[[], list[str]]]) -> None:
    """Have every cluster know this node, and the node where it is: at once, soon again where that fails, and now and then."""
    pause = 0.0
    while not stop.wait(pause):
        failed = [why for join in joins for why in join()]
        for why in failed:
            log.warning("not joined: %s", why)
        pause = 5.0 if failed else 300.0


def _locality(location: str, labels: str, reader: Callable[[], Labels]) -> Locality:
    """Where this node is, as the options say. Raises InvalidRequest."""
    wanted = [label.strip() for label in labels.split(",") if label.strip()]
    return Locality(location, wanted, reader() if wanted else None)


def _looked(locality: Locality) -> list[str]:
    """Read the node's labels, if they count; gives why not."""
    try:
        locality.look()
    except ProvisionerError as error:
        return [f"where it is, by its labels: {error}"]
    return []


def _labels(kubeconfig_file: str, node_id: str, process: wiring.Process) -> Labels:
    """What reads the labels of the Kubernetes node of that name; it raises Unavailable."""
    # imported here: a node that was not asked to never talks to Kubernetes
    from provisioner.kube import kubeconfig
    from provisioner.kube.errors import KubeError
    from provisioner.kube.resources import NODES
    from provisioner.kube.transport import Api, Limits

    agent = f"ceph-provisioner/{provisioner.__version__}"
    api = Api(kubeconfig.load(kubeconfig_file), agent, Limits(connections=1), process.metrics.on_call)

    def read() -> Mapping[str, str]:
        try:
            return dict(api.get(NODES.path(name=node_id))["metadata"].get("labels") or {})
        except KubeError as error:
            raise Unavailable(f"node {node_id} of Kubernetes: {error}") from error

    return read


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals or not value:
        raise InvalidRequest("--topology", text, "must be KEY=VALUE")
    return key, value
