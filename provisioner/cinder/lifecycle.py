"""A Cinder volume from its making to its end: each step may be the last before a crash, and is safe to repeat."""

import time
from collections.abc import Mapping
from typing import Any

from provisioner.cinder import connecting, records
from provisioner.cinder.api import Api
from provisioner.cinder.errors import Failed, Unanswered
from provisioner.cinder.offering import Offering
from provisioner.cinder.records import GIB, Record
from provisioner.cinder.waiting import until
from provisioner.core.errors import Conflict, HasDependants, InUse, InvalidRequest, NotFound, OutOfSpace, ProvisionerError
from provisioner.core.model import Blueprint


def make(api: Api, plan: Blueprint) -> list[Record]:
    """Have a volume made under the plan's name, and wait for it. What failed is gone again, unless nobody answered.

    Gives all volumes of the name, as `records.named` does.
    """
    doing = f"making volume {plan.id}"
    wanted = {**_wanted(plan), **records.source(api, plan)}
    try:
        made = api.post("/volumes", doing, {"volume": wanted})["volume"]
        return settle(api, plan.id.image, made["id"])
    except Unanswered:
        raise
    except ProvisionerError as error:
        _undo(api, plan.id.image)
        raise _blamed(plan, error) from error.__cause__


def settle(api: Api, name: str, uuid: str) -> list[Record]:
    """Wait until the volume of the name is no longer being made, and give all that bear the name.

    Raises Failed, with Cinder's reason, if it could not be made.
    """
    started = time.monotonic()

    def settled() -> list[Record] | None:
        if api.is_under_way(uuid, "creating", started):
            return None
        found = records.named(api, name)
        if not found:
            raise Failed(f"volume {name} went while Cinder was making it")
        return None if found[0]["status"] in records.UNDER_WAY else found

    found = until(settled, api.config.patience, f"Cinder is making volume {name}")
    if records.is_wreck(found[0]):
        raise Failed(f"Cinder could not make volume {name}: {_reason(api, found[0]['id'])}")
    return found


def extend(api: Api, uuid: str, size: int) -> int:
    """Grow the volume to `size` bytes, rounded up to GiB, attached or not; gives the bytes that it has when it has grown."""
    doing = f"growing volume {uuid}"
    try:
        api.act(uuid, "os-extend", doing, {"new_size": gibs(size)})
    except Conflict:  # a try before this one was not answered, or killed
        if (look(api, uuid) or {}).get("status") != "extending":
            raise

    def grown() -> Record | None:
        record = look(api, uuid)
        return None if record is not None and record["status"] == "extending" else record or {}

    record = until(grown, api.config.patience, f"Cinder is {doing}")
    grown_to = int(record.get("size", 0)) * GIB
    if grown_to < size:
        raise Failed(f"Cinder could not grow volume {uuid}: {_reason(api, uuid)}")
    return grown_to


def remove(api: Api, uuid: str) -> None:
    """Take the volume away, attached by us or not, and wait until it is gone; gone already is fine.

    In reverse of how it came: detach, terminate the connection, lift the reservation, delete. Raises InUse, HasDependants.
    """
    record = look(api, uuid)
    if record is None:
        return
    if record["status"] not in records.DYING:
        connecting.disconnect(api, record)
    remove_unconnected(api, uuid, record["status"])


def remove_unconnected(api: Api, uuid: str, status: str = "") -> None:
    """Take a volume away that is surely not connected, and wait until it is gone."""
    if status != "deleting":
        _delete(api, uuid)
    started = time.monotonic()
    until(lambda: _gone(api, uuid, started), api.config.patience, f"Cinder is deleting volume {uuid}")


def look(api: Api, uuid: str) -> Record | None:
    """The volume as it is now, None if it is gone."""
    try:
        found: Record = api.get(f"/volumes/{uuid}", f"looking at volume {uuid}")["volume"]
    except NotFound:
        return None
    return found


def gibs(size: int) -> int:
    """Bytes rounded up to what Cinder counts in."""
    return -(-size // GIB)


def _wanted(plan: Blueprint) -> Mapping[str, Any]:
    offering = plan.layout
    if not isinstance(offering, Offering):
        raise InvalidRequest("layout", plan.name, "a Cinder volume is asked for by type and zone")
    chosen = {"volume_type": offering.type, "availability_zone": offering.zone}
    return {
        "name": plan.id.image,
        "size": gibs(plan.size),
        "metadata": records.metadata(plan),
        **{key: value for key, value in chosen.items() if value},
    }


def _blamed(plan: Blueprint, error: ProvisionerError) -> ProvisionerError:
    """The same refusal, with what asked for it: Cinder names the value, and not where it stands."""
    said, asked = str(error), plan.layout.described()
    if isinstance(error, OutOfSpace):
        return OutOfSpace(f"{error.where} (size: {gibs(plan.size)} GiB)")
    if isinstance(error, NotFound) and "olume type" in said:
        return InvalidRequest("parameters.type", asked.get("type", ""), said)
    if isinstance(error, InvalidRequest) and "vailability zone" in said:
        return InvalidRequest("parameters.availability", asked.get("availability", ""), said)
    return error


def _undo(api: Api, name: str) -> None:
    """Remove every volume of the name that a failed create left; one that can't be is left to the retry or the sweep."""
    try:
        for record in records.named(api, name):
            remove_unconnected(api, record["id"], record["status"])
    except ProvisionerError as error:
        connecting.log.warning("undoing the making of volume %s: %s", name, error)


def _delete(api: Api, uuid: str) -> None:
    try:
        api.delete(f"/volumes/{uuid}", f"deleting volume {uuid}")
    except NotFound:
        return
    except (Conflict, InvalidRequest) as error:  # Cinder's words name snapshots among whatever else may be in the way
        if kept := _snapshots(api, uuid):
            raise HasDependants(f"Cinder volume {uuid}", kept) from error
        raise


def _gone(api: Api, uuid: str, started: float) -> bool | None:
    """True when the volume is gone, None while that goes on; a backend that refuses has it back as it was."""
    if api.is_under_way(uuid, "deleting", started):
        return None
    record = look(api, uuid)
    if record is None:
        return True
    if record["status"] == "available":
        raise InUse(f"Cinder volume {uuid}", ["a client that has it open, or a clone: Cinder took it back"])
    if record["status"] == "error_deleting":
        raise Failed(f"Cinder could not delete volume {uuid}: {_reason(api, uuid)}")
    return None


def _snapshots(api: Api, uuid: str) -> list[str]:
    listed = api.get("/snapshots", f"listing snapshots of volume {uuid}", volume_id=uuid)["snapshots"]
    return [str(each["name"] or each["id"]) for each in listed]


def _reason(api: Api, uuid: str) -> str:
    """What Cinder tells its users of a failure behind an accepted call."""
    try:
        told = api.get("/messages", f"reading messages about volume {uuid}", resource_uuid=uuid, limit=1)["messages"]
    except ProvisionerError:
        told = []
    return str(told[0]["user_message"]) if told else "it does not say why"
