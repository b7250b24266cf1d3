"""Clients of ours that may have left pieces of images which no name leads to: a list in each place, for the sweep of `orphans`.

Where Ceph does not answer a create in time, librbd undoes the steps that it knows of. The unanswered one is done all the same
once the OSD comes to it: a header, or an object map, of an id that nobody was told. So who heard nothing in time, and who was
buried, is put on this list, until the place was looked through. A process that lives puts itself there; until it could, its
entry on the list of processes stands for that: whoever takes it away as a dead one's writes this one first.
"""

import uuid

import rados

from provisioner.ceph import wire

LIST = "ceph-provisioner.suspects"


def note(pool: rados.Ioctx, instance: str) -> None:
    """Put the client on the list; one that is there already is there anew."""
    wire.omap_set(pool, LIST, instance, uuid.uuid4().hex, wire.FULL_FORCE)


def noted(pool: rados.Ioctx) -> dict[int, str]:
    """The clients on the list, with what `clear` has to be told."""
    entries = wire.omap_all(pool, LIST)
    return {int(instance): raw.decode(errors="replace") for instance, raw in entries if instance.isdecimal()}


def clear(pool: rados.Ioctx, instance: int, entry: str) -> None:
    """Take the client off the list, unless it was put there anew."""
    wire.omap_drop(pool, LIST, str(instance), entry)
