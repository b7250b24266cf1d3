"""The composition root: parse, wire, serve, drain. The only place that knows everybody."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import provisioner
from provisioner.ceph.attachments import CephAttachments
from provisioner.ceph.cluster import Clusters
from provisioner.ceph.content import CephContent
from provisioner.ceph.diff import CephChanges
from provisioner.ceph.event_log import EventLog
from provisioner.ceph.groups import CephGroups
from provisioner.ceph.health import CephHealth
from provisioner.ceph.keys import Keys
from provisioner.ceph.nodes import NodeImages
from provisioner.ceph.places import Places
from provisioner.ceph.reservations import CephReservations
from provisioner.ceph.snapshots import CephSnapshots
from provisioner.ceph.store import CephStore
from provisioner.config import ConfigFile
from provisioner.core.attachments import Attachments
from provisioner.core.buckets import BucketStore
from provisioner.core.by_cluster import by_cluster
from provisioner.core.changes import Changes
from provisioner.core.choices import Choices
from provisioner.core.errors import InvalidRequest, ProvisionerError, Unavailable
from provisioner.core.groups import Groups
from provisioner.core.ids import Place, check_place
from provisioner.core.ports import VolumeStore
from provisioner.core.single_flight import SingleFlight
from provisioner.core.snapshots import Snapshots
from provisioner.core.volumes import Volumes
from provisioner.host.build import host_node
from provisioner.host.clients import Clients
from provisioner.host.node import Node
from provisioner.housekeeping import Housekeeping
from provisioner.kube.errors import KubeError
from provisioner.observe import logs
from provisioner.observe.http import StatusServer
from provisioner.observe.metrics import Metrics

if TYPE_CHECKING:
    from provisioner.claims.connected import Exports

log = logging.getLogger(__name__)

_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CEPH_PROVISIONER"})
@click.version_option(provisioner.__version__)
@click.option("--config", required=True, type=click.Path(path_type=Path), help="The config file: which clusters there are.")
@click.option("-v", "--verbose", count=True, help="Tell how, not only what.")
@click.pass_context
def cli(context: click.Context, config: Path, verbose: int) -> None:
    """Block volumes from a Ceph cluster for whoever asks."""
    logs.set_up(verbose)
    context.obj = ConfigFile(config)


@cli.command()
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
    # imported here: what speaks with an API server is for those who have one
    from provisioner.claims.controller import Controller, Options
    from provisioner.kube import kubeconfig
    from provisioner.kube.transport import Api, Limits

    namespace = namespace or _own_namespace()
    options = Options(name, namespace, lease or name.replace("/", "-").lower(), csi_driver or name, workers, capacity_interval)
    stop = _stop_on_signals()
    metrics = Metrics()
    access = kubeconfig.load(kubeconfig_file)
    agent = f"ceph-provisioner/{provisioner.__version__}"
    api = Api(access, agent, Limits(connections=workers * 2 + 8), metrics.on_call)
    lease_api = Api(access, agent, Limits(connections=2), metrics.on_call)
    places = Places(Clusters(config.clusters))
    store = CephStore(places)
    exports, every_store = _exports(config, places, store)
    volumes = Volumes(every_store, SingleFlight(on_done=metrics.on_operation))
    housekeeping = Housekeeping(places, store, metrics)
    controller = Controller(api, lease_api, volumes, config.clusters, options, metrics, exports)
    status = StatusServer(listen, metrics, controller.unhealthy, controller.unready)
    status.start()
    click.echo(f"serving {name}; status at http://{status.address}", err=True)
    housekeeping.start()
    try:
        controller.start()
        stop.wait()
    finally:
        controller.stop()
        housekeeping.stop()
        status.close()
        for each in (api, lease_api):
            each.close()


@cli.command()
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
    from csi.serve import serve_node
    from provisioner.rpc.server import Listen

    place = NodePlace(node_id, dict(_pair(text) for text in topology), max_volumes)
    stop = _stop_on_signals()
    metrics = Metrics()
    places = Places(Clusters(config.clusters))
    images = NodeImages(places.clusters)
    clients = Clients(Attachments(CephAttachments(places)), node_id)
    flights = SingleFlight(on_done=metrics.on_operation)
    volumes = host_node(images, clients, run_directory, flights, mounter, read_affinity)
    pulse = Pulse(config.clusters, lambda name: images.ask(places.of(name)))
    server = serve_node(volumes, place, pulse, driver_name, Listen(csi_endpoint), metrics.on_rpc)
    registration, doors = Registration(driver_name, str(server.path)), [server]
    if kubelet_registration:
        socket = f"unix://{kubelet_registration}/{driver_name}-reg.sock"
        doors.insert(0, serve_registration(registration, Listen(socket, permits=1, queue=1), metrics.on_rpc))
    status = StatusServer(listen, metrics, registration.refusals, list)
    joining = threading.Thread(target=_stay_joined, args=(stop, volumes, config, dict(place.topology)), daemon=True)
    joining.start()
    status.start()
    click.echo(f"serving {driver_name} at {csi_endpoint}; status at http://{status.address}", err=True)
    try:
        stop.wait()
    finally:
        for door in doors:
            door.drain()
        status.close()


@cli.command()
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

    stop = _stop_on_signals()
    metrics = Metrics()
    places = Places(Clusters(config.clusters))
    store = CephStore(places)
    flights = SingleFlight(on_done=metrics.on_operation)
    volumes = Volumes(store, flights)
    housekeeping = Housekeeping(places, store, metrics)
    status = StatusServer(listen, metrics, list, list)
    backend = Backend(
        volumes=volumes,
        clusters=config.clusters,
        places=lambda name: config.clusters()[name].places(),
        read_page=store.page,
        snapshots=Snapshots(CephSnapshots(places), flights),
        groups=Groups(CephGroups(places), CephSnapshots(places), flights),
        changes=Changes(CephChanges(places)),
        choices=Choices(volumes, CephReservations(places)),
        attachments=Attachments(CephAttachments(places), flights, metrics.on_fence),
        health=CephHealth(places),
        segments=lambda name: dict(config.clusters()[name].segments),
    )
    server = serve(backend, driver_name, Listen(csi_endpoint), metrics.on_rpc, topology=topology)
    status.start()
    housekeeping.start()
    click.echo(f"serving {driver_name} at {csi_endpoint}; status at http://{status.address}", err=True)
    try:
        stop.wait()
    finally:
        server.drain()
        housekeeping.stop()
        status.close()


@cli.command("iri-volumes")
@click.option("--address", required=True, help="The socket to serve volumepoollet on: unix:///PATH.")
@click.option("--volume-classes", required=True, type=click.Path(path_type=Path), help="The classes to offer, a YAML list.")
@click.option("--pool", required=True, help="Where the volumes lie: POOL or POOL/NAMESPACE.")
@click.option("--cluster", default="", help="A cluster of the config file; the only one if left out.")
@click.option("--registries", type=click.Path(path_type=Path), help="Registries of OS images that are not public HTTPS.")
@click.option("--limits-burst-factor", default=10, show_default=True, type=click.IntRange(1), help="Bursts, in limits; 1: none.")
@click.option("--limits-burst-duration", default=15, show_default=True, type=click.IntRange(1), help="Seconds of a burst.")
@click.option("--listen", default="127.0.0.1:9873", show_default=True, help="Where /metrics, /healthz and /readyz are.")
@click.pass_obj
def iri_volumes(
    config: ConfigFile,
    address: str,
    volume_classes: Path,
    pool: str,
    cluster: str,
    registries: Path | None,
    limits_burst_factor: int,
    limits_burst_duration: int,
    listen: str,
) -> None:
    """Serve IronCore's VolumeRuntime: volumes for volumepoollet."""
    # imported here: gRPC's 15 MB are for those who serve it
    from provisioner.iri.base_images import BaseImages, Parts
    from provisioner.iri.classes import ClassFile, read_volume_classes
    from provisioner.iri.classes import Limits as ClassLimits
    from provisioner.iri.serve import EVENTS, serve_volumes
    from provisioner.iri.volumes import Backend as VolumeBackend
    from provisioner.iri.volumes import Shelf
    from provisioner.oci import Registries
    from provisioner.rpc.server import Listen

    stop = _stop_on_signals()
    metrics = Metrics()
    places = Places(Clusters(config.clusters))
    store = CephStore(places)
    flights = SingleFlight(on_done=metrics.on_operation)
    volumes, snapshots = Volumes(store, flights), Snapshots(CephSnapshots(places), flights)
    housekeeping = Housekeeping(places, store, metrics)
    name, _, namespace = pool.partition("/")
    place = check_place(Place(places.clusters.config(cluster).name, name, namespace))
    bursts = ClassLimits(limits_burst_factor, limits_burst_duration)
    shelf = Shelf(place, ClassFile(volume_classes, read_volume_classes), bursts)
    status = StatusServer(listen, metrics, list, list)
    _attend(volumes, place)
    content = CephContent(places)
    images = BaseImages(Parts(volumes, snapshots, Registries(registries), content), place)
    backend = VolumeBackend(volumes, snapshots, images, content, EventLog(places, place, EVENTS))
    server = serve_volumes(backend, shelf, Listen(address), metrics.on_rpc)
    status.start()
    housekeeping.start()
    click.echo(f"serving volumes of {place} at {address}; status at http://{status.address}", err=True)
    try:
        stop.wait()
    finally:
        images.stop()
        server.drain()
        housekeeping.stop()
        status.close()


@cli.command("iri-buckets")
@click.option("--address", required=True, help="The socket to serve bucketpoollet on: unix:///PATH.")
@click.option("--bucket-classes", required=True, type=click.Path(path_type=Path), help="The classes to offer, a YAML list.")
@click.option("--backend", required=True, type=click.Choice(["rgw", "obc"]), help="radosgw itself, or ObjectBucketClaims.")
@click.option("--bucket-endpoint", default="", help="HOST[:PORT] that clients are told behind the bucket's name.")
@click.option("--rgw-endpoint", default="", help="rgw: URL of the gateway.")
@click.option("--rgw-keys", default="", type=click.Path(path_type=Path), help="rgw: what `radosgw-admin user create` printed.")
@click.option("--rgw-ca", default="", help="rgw: the authority behind the gateway's certificate; the system's if left out.")
@click.option("--kubeconfig", "kubeconfig_file", default="", help="obc: a kubeconfig; in a pod, the service account.")
@click.option("--namespace", default="ceph-provisioner-buckets", show_default=True, help="obc: where the claims are made.")
@click.option("--storage-class", default="", help="obc: the StorageClass of bucket classes that name none.")
@click.option("--listen", default="127.0.0.1:9874", show_default=True, help="Where /metrics, /healthz and /readyz are.")
def iri_buckets(address: str, bucket_classes: Path, backend: str, listen: str, **options: Any) -> None:
    """Serve IronCore's BucketRuntime: buckets for bucketpoollet."""
    # imported here: gRPC's 15 MB are for those who serve it
    from provisioner.iri.classes import ClassFile, read_bucket_classes
    from provisioner.iri.serve import serve_buckets
    from provisioner.rpc.server import Listen

    stop = _stop_on_signals()
    metrics = Metrics()
    classes = ClassFile(bucket_classes, read_bucket_classes)
    maker = _gateway_buckets if backend == "rgw" else _claimed_buckets
    with maker(metrics, **options) as (buckets, unready):
        status = StatusServer(listen, metrics, list, unready)
        server = serve_buckets(buckets, classes, Listen(address), metrics.on_rpc)
        status.start()
        click.echo(f"serving buckets by {backend} at {address}; status at http://{status.address}", err=True)
        try:
            stop.wait()
        finally:
            server.drain()
            status.close()


_Buckets = Iterator[tuple[BucketStore, Callable[[], list[str]]]]
"""Whatever makes buckets, and what keeps it from being of use."""


@contextmanager
def _gateway_buckets(
    _: Metrics, rgw_endpoint: str, rgw_keys: Path, rgw_ca: str, bucket_endpoint: str, **_others: object
) -> _Buckets:
    # imported here: botocore is for those who talk to a gateway
    from provisioner.ceph.buckets import GatewayBuckets
    from provisioner.ceph.gateway import Gateway

    buckets, stop = GatewayBuckets(Gateway(rgw_endpoint, rgw_keys, rgw_ca), bucket_endpoint), threading.Event()
    remover = threading.Thread(target=buckets.remove, args=(stop,), name="remove buckets", daemon=True)
    remover.start()
    try:
        yield buckets, list
    finally:
        stop.set()
        remover.join(5)


@contextmanager
def _claimed_buckets(
    metrics: Metrics, kubeconfig_file: str, namespace: str, storage_class: str, bucket_endpoint: str, **_others: object
) -> _Buckets:
    from provisioner.iri.obc import ClaimedBuckets, Claiming
    from provisioner.kube import kubeconfig
    from provisioner.kube.transport import Api, Limits

    api = Api(kubeconfig.load(kubeconfig_file), f"ceph-provisioner/{provisioner.__version__}", Limits(), metrics.on_call)
    buckets = ClaimedBuckets(api, Claiming(namespace, storage_class, bucket_endpoint))
    buckets.start()
    try:
        yield buckets, buckets.unready
    finally:
        buckets.stop()
        api.close()


def main() -> None:
    """Run the command line; errors of ours end it with one sentence and exit code 1."""
    try:
        cli.main(standalone_mode=True)
    except (ProvisionerError, KubeError) as error:
        click.echo(f"ceph-provisioner: {error}", err=True)
        sys.exit(1)


def _attend(volumes: Volumes, place: Place) -> None:
    """Take up what a predecessor left to be purged; a place that there isn't ends the program, a cluster away does not."""
    try:
        volumes.attend(place)
    except Unavailable as error:
        click.echo(f"ceph-provisioner: {error}; going on", err=True)


def _exports(config: ConfigFile, places: Places, store: CephStore) -> "tuple[Exports | None, VolumeStore]":
    """Cinder beside Ceph, if the config file names a cloud."""
    if not config.clouds():
        return None, store
    # imported here: the OpenStack SDK's 40 MB are for those who have one
    from provisioner.cinder.api import Clouds
    from provisioner.cinder.store import CinderStore
    from provisioner.claims.connected import Exports

    cinder = CinderStore(Clouds(config.clouds))
    return Exports(cinder, Keys(places.clusters).find, config.clouds), by_cluster(store, cinder, config.clouds)


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


def _own_namespace() -> str:
    try:
        return _SERVICE_ACCOUNT_NAMESPACE.read_text().strip()
    except OSError:
        return "ceph-provisioner"


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
