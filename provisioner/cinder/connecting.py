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


def connect(api: Api, uuid: str) -> Connection:
    """Bring the volume to `in-use`, from whatever step it is at, and give the connection; the same again each time.

    A step that Cinder refuses has those before it undone. One that was not answered has not: it may have been done.
    """
    if not _reserve(api, uuid):
        return _initialized(api, uuid)
    config = api.config
    undo: list[Callable[[], None]] = []
    try:
        undo.append(lambda: _unreserve(api, uuid))
        connection = _initialized(api, uuid)
        undo.append(lambda: _terminate(api, uuid))
        host = {"mountpoint": records.mountpoint(config.host), "host_name": config.host, "mode": "rw"}
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
    """Bring the volume back to `available`, from whatever step it is at; what is gone by now is fine. Raises InUse.

    A volume without an attachment may have lost it to a call whose successors failed: so its connection is ended all the same.
    A backend that finds this strange has then never made one.
    """
    uuid, host = str(record["id"]), api.config.host
    if foreign := records.others(record, host):
        raise InUse(f"Cinder volume {uuid}", foreign)
    attachment = records.attachment(record, host)
    if attachment:
        _survived(lambda: api.act(uuid, "os-detach", f"detaching volume {uuid}", {"attachment_id": attachment}))
        _terminate(api, uuid)
    else:
        _quietly(lambda: _terminate(api, uuid))
    _unreserve(api, uuid)


def _reserve(api: Api, uuid: str) -> bool:
    """Reserve the volume, unless that was done before; False if it is attached by us already."""
    try:
        api.act(uuid, "os-reserve", f"reserving volume {uuid}")
    except Conflict:  # most volumes are new, and `available`: only others are worth a look
        record = _seen(api, uuid)
        if foreign := records.others(record, api.config.host):
            raise InUse(f"Cinder volume {uuid}", foreign) from None
        if not records.attachment(record, api.config.host) and record["status"] != "attaching":
            raise
        return bool(record["status"] == "attaching")
    return True


def _seen(api: Api, uuid: str) -> Record:
    """The volume as it is. Where Cinder does not tell, its state is unknown, and nothing may be undone."""
    try:
        found: Record = api.get(f"/volumes/{uuid}", f"looking at volume {uuid}")["volume"]
    except NotFound:
        raise
    except ProvisionerError as error:
        raise Unanswered(str(error)) from error
    return found


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
    except Unanswered:
        raise
    except ProvisionerError as error:
        log.warning("undoing: %s", error)
