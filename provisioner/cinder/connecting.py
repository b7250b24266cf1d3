"""How a node comes to reach a Cinder volume, without Cinder's help from then on: reserve, initialize_connection, attach.

    available ──reserve──> attaching ──initialize_connection──> attaching ──attach──> in-use

Undone in reverse. Whether a volume was handed out is told by its attachment, which is the last step.
"""

import logging
from collections.abc import Callable

from provisioner.cinder import records
from provisioner.cinder.api import Api
from provisioner.cinder.errors import Unanswered
from provisioner.cinder.records import Record
from provisioner.core.connections import Connection
from provisioner.core.errors import Conflict, InUse, NotFound, ProvisionerError

log = logging.getLogger(__name__)

_MOUNTPOINT = "/kubernetes"
"""Cinder wants one; nodes mount where they please."""


def connect(api: Api, record: Record) -> Connection:
    """Bring the volume to `in-use`, from whatever step it is at, and give the connection; the same again each time.

    A step that Cinder refuses has those before it undone. One that was not answered has not: it may have been done.
    """
    uuid, config = str(record["id"]), api.config
    if foreign := records.others(record, config.host):
        raise InUse(f"Cinder volume {uuid}", foreign)
    if records.attachment(record, config.host):
        return _initialized(api, uuid)
    if record["status"] not in ("available", "attaching"):
        raise Conflict(f"Cinder volume {uuid}", f"it is {record['status']}")
    undo: list[Callable[[], None]] = []
    try:
        if record["status"] == "available":
            api.act(uuid, "os-reserve", f"reserving volume {uuid}")
        undo.append(lambda: _unreserve(api, uuid))
        connection = _initialized(api, uuid)
        undo.append(lambda: _terminate(api, uuid))
        host = {"mountpoint": _MOUNTPOINT, "host_name": config.host, "mode": "rw"}
        api.act(uuid, "os-attach", f"attaching volume {uuid}", host)
    except Unanswered:
        raise
    except ProvisionerError as error:
        log.info("%s; undone", error)
        for step in reversed(undo):
            _quietly(step)
        raise
    return connection


def disconnect(api: Api, record: Record) -> None:
    """Bring the volume back to `available`, from whatever step it is at; what is gone by now is fine. Raises InUse."""
    uuid, host = str(record["id"]), api.config.host
    if foreign := records.others(record, host):
        raise InUse(f"Cinder volume {uuid}", foreign)
    attachment = records.attachment(record, host)
    if attachment:
        _survived(lambda: api.act(uuid, "os-detach", f"detaching volume {uuid}", {"attachment_id": attachment}))
    if attachment or record["status"] == "attaching":
        _terminate(api, uuid)
        _unreserve(api, uuid)


def _initialized(api: Api, uuid: str) -> Connection:
    doing = f"initialize_connection of volume {uuid}"
    answer = api.act(uuid, "os-initialize_connection", doing, {"connector": api.config.connector()})
    info = answer["connection_info"]
    return Connection(info["driver_volume_type"], info["data"], api.config.initiator)


def _terminate(api: Api, uuid: str) -> None:
    doing = f"terminate_connection of volume {uuid}"
    _survived(lambda: api.act(uuid, "os-terminate_connection", doing, {"connector": api.config.connector()}))


def _unreserve(api: Api, uuid: str) -> None:
    _survived(lambda: api.act(uuid, "os-unreserve", f"unreserving volume {uuid}"))


def _survived(step: Callable[[], object]) -> None:
    try:
        step()
    except NotFound:
        return


def _quietly(step: Callable[[], None]) -> None:
    try:
        step()
    except ProvisionerError as error:
        log.warning("undoing: %s", error)
