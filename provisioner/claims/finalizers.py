"""Taking a finalizer of ours off an object that others write to as well."""

from contextlib import suppress

from provisioner.claims import objects
from provisioner.kube.errors import Invalid, NotFound
from provisioner.kube.resources import Object
from provisioner.kube.transport import Api

_TRIES = 4
"""Versions of the object to try with, before the refusal must have another reason than the finalizer's position."""


def take_off(api: Api, path: str, item: Object, name: str) -> None:
    """Remove the finalizer from the object at `path`, if it is still the one that `item` is; gone already is fine.

    By position, tested in the same step with the uid: so no version of the object matters, only where the finalizer stands.
    Raises KubeError.
    """
    uid = objects.uid(item)
    with suppress(NotFound):
        for tries_left in reversed(range(_TRIES)):
            if objects.uid(item) != uid or name not in (held := objects.finalizers(item)):
                return
            try:
                api.patch(path, _steps(uid, name, held.index(name)), "json")
            except Invalid:
                if not tries_left:
                    raise
            else:
                return
            item = api.get(path)


def _steps(uid: str, name: str, position: int) -> list[Object]:
    at = f"/metadata/finalizers/{position}"
    return [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": at, "value": name},
        {"op": "remove", "path": at},
    ]
