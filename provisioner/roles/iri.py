"""The two roles for IronCore's poollets: volumes in Ceph, and buckets in radosgw or by ObjectBucketClaims."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

import provisioner
from provisioner import wiring
from provisioner.ceph.content import CephContent
from provisioner.ceph.event_log import EventLog
from provisioner.ceph.snapshots import CephSnapshots
from provisioner.config import ConfigFile
from provisioner.core.buckets import BucketStore
from provisioner.core.errors import Unavailable
from provisioner.core.ids import Place, check_place
from provisioner.core.snapshots import Snapshots
from provisioner.core.volumes import Volumes
from provisioner.observe.http import StatusServer
from provisioner.observe.metrics import Metrics


@click.command("iri-volumes")
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
    from provisioner.iri.volumes import Backend, Shelf
    from provisioner.oci import Registries
    from provisioner.rpc.server import Listen

    process = wiring.Process()
    ceph, flights = wiring.ceph(config, process.metrics), process.flights()
    volumes, snapshots = Volumes(ceph.store, flights), Snapshots(CephSnapshots(ceph.places), flights)
    place = _place(ceph, cluster, pool)
    bursts = ClassLimits(limits_burst_factor, limits_burst_duration)
    shelf = Shelf(place, ClassFile(volume_classes, read_volume_classes), bursts)
    status = StatusServer(listen, process.metrics, list, list)
    _attend(volumes, place)
    content = CephContent(ceph.places)
    images = BaseImages(Parts(volumes, snapshots, Registries(registries), content), place)
    backend = Backend(volumes, snapshots, images, content, EventLog(ceph.places, place, EVENTS))
    server = serve_volumes(backend, shelf, Listen(address), process.metrics.on_rpc)
    ends = (images.stop, server.drain, ceph.housekeeping.stop)
    process.run(status, f"volumes of {place} at {address}", (ceph.housekeeping.start,), ends)


def _place(ceph: wiring.Ceph, cluster: str, pool: str) -> Place:
    """The place of `--pool`. Raises InvalidRequest for one that can't be."""
    name, _, namespace = pool.partition("/")
    return check_place(Place(ceph.places.clusters.config(cluster).name, name, namespace))


def _attend(volumes: Volumes, place: Place) -> None:
    """Take up what a predecessor left to be purged; a place that there isn't ends the program, a cluster away does not."""
    try:
        volumes.attend(place)
    except Unavailable as error:
        click.echo(f"ceph-provisioner: {error}; going on", err=True)


@click.command("iri-buckets")
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

    process = wiring.Process()
    classes = ClassFile(bucket_classes, read_bucket_classes)
    maker = _gateway_buckets if backend == "rgw" else _claimed_buckets
    with maker(process.metrics, **options) as (buckets, unready):
        status = StatusServer(listen, process.metrics, list, unready)
        server = serve_buckets(buckets, classes, Listen(address), process.metrics.on_rpc)
        process.run(status, f"buckets by {backend} at {address}", (), (server.drain,))


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
