"""The IronCore front end put together: a runtime over the core, behind a socket."""

import grpc
from google.protobuf.descriptor import FieldDescriptor

from provisioner.core.buckets import BucketStore
from provisioner.iri.buckets import BucketRuntime
from provisioner.iri.classes import BucketClass, ClassFile
from provisioner.iri.events import Events, MemoryLog
from provisioner.iri.pb.bucket.v1alpha1 import api_pb2_grpc as bucket_grpc
from provisioner.iri.pb.volume.v1alpha1 import api_pb2_grpc as volume_grpc
from provisioner.iri.volumes import Backend, Shelf, VolumeRuntime
from provisioner.rpc.boundary import OnCall, Policy
from provisioner.rpc.redact import Redactor
from provisioner.rpc.server import Listen, Server

EVENTS = "ceph-provisioner.events"
"""The object that holds a pool's events."""
LIGHT = frozenset(("/volume.v1alpha1.VolumeRuntime/Version", "/bucket.v1alpha1.BucketRuntime/Version"))


def serve_volumes(backend: Backend, shelf: Shelf, listen: Listen, on_call: OnCall) -> Server:
    """Start a volume runtime; the caller drains it. Raises InvalidRequest if the socket can't be had."""

    def register(server: grpc.Server) -> list[str]:
        runtime = VolumeRuntime(backend, shelf)
        volume_grpc.add_VolumeRuntimeServicer_to_server(runtime, server)
        return ["volume.v1alpha1.VolumeRuntime"]

    server = Server(listen, Policy(LIGHT, {}, Redactor(is_secret), on_call), register)
    server.start()
    return server


def serve_buckets(buckets: BucketStore, classes: ClassFile[BucketClass], listen: Listen, on_call: OnCall) -> Server:
    """Start a bucket runtime; the caller drains it. Raises InvalidRequest if the socket can't be had."""

    def register(server: grpc.Server) -> list[str]:
        runtime = BucketRuntime(buckets, classes, Events(MemoryLog()))
        bucket_grpc.add_BucketRuntimeServicer_to_server(runtime, server)
        return ["bucket.v1alpha1.BucketRuntime"]

    server = Server(listen, Policy(LIGHT, {}, Redactor(is_secret), on_call), register)
    server.start()
    return server


def is_secret(field: FieldDescriptor) -> bool:
    """Tell whether the field is one that no log may show."""
    return field.name == "secret_data"
