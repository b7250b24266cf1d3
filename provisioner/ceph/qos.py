"""Limits on an image: librbd's options in its metadata, and the spec that they were computed from, in one step.

librbd sets one such option by opening the image, taking its lock from whoever has it, and writing one key. Here all of them
and our own mark change in one operation of the OSD, which compares first: of two writers one begins anew. Then every watcher
is told that the header changed, as librbd tells it; a client that has the image open reads its limits again.
"""

from collections.abc import Mapping

import msgspec
import rados

from provisioner.ceph import headers
from provisioner.core.errors import InvalidRequest
from provisioner.core.model import Volume
from provisioner.core.qos import NO_QOS, NO_THROTTLE, OPTIONS, Qos, Throttle

MARK = "ceph-provisioner.qos"
_OPTION = "conf_"
KEYS = (MARK, *(_OPTION + option for option in OPTIONS))
"""Every key of an image's metadata that this module may set."""


class _Mark(msgspec.Struct, frozen=True):
    image_id: str
    size: int
    made_with: dict[str, int]
    qos: dict[str, int]


def tags(qos: Qos, made_with: Qos, size: int, image_id: str) -> dict[str, str]:
    """The metadata of an image of `size` bytes that is to be throttled so; none without a spec now or at first."""
    if not qos and not made_with:
        return {}
    mark = _Mark(image_id, size, made_with.described(), qos.described())
    options = {_OPTION + option: value for option, value in qos.options(size).items()}
    return {MARK: msgspec.json.encode(mark).decode(), **options}


def read(metadata: Mapping[str, str], image_id: str) -> Throttle:
    """What the metadata say. A mark of another image, or one that can't be read, counts as none."""
    raw = metadata.get(MARK, "")
    options = {option: metadata[_OPTION + option] for option in OPTIONS if _OPTION + option in metadata}
    if not raw and not options:
        return NO_THROTTLE
    qos, made_with = _decoded(raw, image_id) if raw else (NO_QOS, NO_QOS)
    return Throttle(qos, made_with, options, raw)


def change(pool: rados.Ioctx, volume: Volume, qos: Qos, made_with: Qos) -> bool:
    """Throttle the image so, and tell whoever has it open; False if it was throttled otherwise meanwhile, or is gone."""
    wanted = tags(qos, made_with, volume.size, volume.image_id)
    gone = [key for key in _standing(volume) if key not in wanted]
    seen = {MARK: volume.throttle.stamp}
    if not headers.change_metadata(pool, volume.image_id, wanted, gone, seen):
        return False
    headers.tell_watchers(pool, volume.image_id)
    return True


def _decoded(raw: str, image_id: str) -> tuple[Qos, Qos]:
    """The spec now, and the one at first."""
    try:
        mark = msgspec.json.decode(raw, type=_Mark)
        found = (Qos.of(mark.qos), Qos.of(mark.made_with))
    except (msgspec.DecodeError, InvalidRequest):
        return NO_QOS, NO_QOS
    return found if mark.image_id == image_id else (NO_QOS, NO_QOS)


def _standing(volume: Volume) -> list[str]:
    """The keys that are on the image now; from the first spec on, limits are ours alone."""
    throttle = volume.throttle
    return [*([MARK] if throttle.stamp else []), *(_OPTION + option for option in throttle.options)]
