"""The CSI controller put together: its services over the core, behind one socket."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import grpc

from csi.controller import Controller
from csi.groups import GroupController
from csi.identity import Identity
from csi.listing import BadToken, Listing, ReadPage
from csi.pb import csi_pb2_grpc
from csi.policy import LIGHT, is_secret
from csi.pulse import Pulse
from csi.snapshot_metadata import SnapshotMetadata
from csi.topology import Pools
from provisioner.core.attachments import Attachments
from provisioner.core.changes import Changes
from provisioner.core.choices import Choices, NoPool
from provisioner.core.groups import Groups
from provisioner.core.health import Health, HealthStore
from provisioner.core.ids import Place
from provisioner.core.keys import VolumeKeys
from provisioner.core.model import Volume
from provisioner.core.snapshots import Snapshots
from provisioner.core.topology import Segments
from provisioner.core.volumes import Volumes
from provisioner.rpc.boundary import OnCall, Policy
from provisioner.rpc.redact import Redactor
from provisioner.rpc.server import Listen, Server
from provisioner.rpc.status import Codes

_PATIENCE = 5.0
"""Seconds after which a cluster that answers nothing makes its volumes count as out of reach: callers wait not much longer."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What the services stand on: the use cases, the clusters' names, the places of each, their pages of volumes.

    `ask` has a cluster answer something small, and raises an error of the core if it does not.
    """

    volumes: Volumes
    clusters: Callable[[], Collection[str]]
    places: Callable[[str], Sequence[Place]]
    ask: Callable[[str], None]
    read_page: ReadPage[Volume]
    snapshots: Snapshots
    groups: Groups
    changes: Changes
    choices: Choices
    attachments: Attachments
    health: HealthStore
    keys: VolumeKeys
    segments: Callable[[str], Segments] = lambda _: {}
    """From where each cluster can be reached; everywhere, if none is given."""


def serve(backend: Backend, name: str, listen: Listen, on_call: OnCall, *, topology: bool = False) -> Server:
    """Start the controller of the driver `name`; the caller drains it. Raises InvalidRequest if the socket can't be had.

    `topology` says that the nodes tell where they are: volumes are then made where they can be reached from.
    """
    codes: Codes = {BadToken: grpc.StatusCode.ABORTED, NoPool: grpc.StatusCode.RESOURCE_EXHAUSTED}
    policy = Policy(LIGHT, codes, Redactor(is_secret), on_call)

    def register(server: grpc.Server) -> list[str]:
        listing = Listing(backend.clusters, backend.places, backend.read_page)
        pools = Pools(backend.volumes, backend.choices, backend.segments, name)
        identity = Identity(name, Pulse(backend.clusters, backend.ask), topology=topology)
        controller = Controller(backend.volumes, backend.clusters, listing, pools, backend.keys)
        controller.serve_attachments(backend.attachments)
        controller.serve_health(Health(backend.health, Pulse(backend.clusters, backend.ask, _PATIENCE).answers))
        controller.serve_snapshots(backend.snapshots, Listing(backend.clusters, backend.places, backend.snapshots.page))
        csi_pb2_grpc.add_IdentityServicer_to_server(identity, server)
        csi_pb2_grpc.add_ControllerServicer_to_server(controller, server)
        csi_pb2_grpc.add_GroupControllerServicer_to_server(GroupController(backend.groups, backend.clusters), server)
        csi_pb2_grpc.add_SnapshotMetadataServicer_to_server(SnapshotMetadata(backend.changes), server)
        return ["csi.v1.Identity", "csi.v1.Controller", "csi.v1.GroupController", "csi.v1.SnapshotMetadata"]

    server = Server(listen, policy, register)
    server.start()
    return server
