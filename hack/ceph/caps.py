"""What client.provisioner may do, and why.

hack/dev-ceph gives its user exactly this. An operator gives the same: `hack/dev-ceph caps --pool NAME ...` prints the
command, and that is where manuals and manifests take it from.

Monitor:
- `profile rbd`, as every RBD client: the maps, `df`, quotas, and `osd blocklist add`.
- `osd blocklist` with `rm`: a fence that was set must be lifted.
- `auth get-or-create`, for names that begin with client.cp-: a user per volume, with `profile rbd` at the monitor, rights
  to objects with an RBD prefix in these very pools, and nothing at the manager and the MDS. The monitor ignores
  arguments that no constraint names, so the last two are demanded as rights that come to nothing.
- `auth rm`, for those names.

OSD: `profile rbd` in its pools. Manager: nothing; what the provisioner asks, the monitors answer.

What stays open:
- Ceph checks such a constraint against keys of the request that the command itself ignores: "caps_mon" written beside
  "caps" passes for the monitor cap, and the user gets what "caps" says. So whoever holds this key and knows that can
  make client.cp-x an administrator. No wording of the caps prevents it (16.2.15 does so; the source of later releases
  reads the same). It is prevented by leaving the right out (`--no-users`: one user per class, made by the operator),
  and made harder by `network 10.0.0.0/8` behind each `auth` grant; the monitors' audit log shows every such request,
  and an honest one never holds "caps_mon".
- `profile rbd` fences any client, any daemon, and with the address `IP:0/0` a whole host; `rm` lifts anybody's fence.
- `profile rbd` reads the central configuration (`config dump`), though neither keys nor `config-key`.
"""

from collections.abc import Sequence

_WORD = "[A-Za-z0-9._-]+"
_IMAGE_ID = "[0-9a-f]{5,14}"
_USER = f"client[.]cp-{_WORD}"
_VOLUME_MON = "profile rbd"
_NO_MANAGER = "allow command none"
_NO_MDS = "allow r fsname=none"


def provisioner_caps(pools: Sequence[str], *, users: bool) -> dict[str, str]:
    """Its caps by service, in these pools; `users` adds the right to make and remove a cephx user per volume."""
    grants = ["profile rbd", "allow command 'osd blocklist' with blocklistop=rm"]
    if users:
        grants += [
            f"allow command 'auth get-or-create' with entity regex '{_USER}' caps_mon='{_VOLUME_MON}' "
            f"caps_osd regex '{_volume_osd_caps(pools)}' caps_mgr='{_NO_MANAGER}' caps_mds='{_NO_MDS}'",
            f"allow command 'auth rm' with entity regex '{_USER}'",
        ]
    return {"mon": ", ".join(grants), "osd": ", ".join(f"profile rbd pool={pool}" for pool in pools)}


def operator_command(pools: Sequence[str], *, users: bool) -> str:
    """The command for a shell that makes client.provisioner with these caps."""
    caps = provisioner_caps(pools, users=users)
    quoted = " \\\n    ".join(f'{service} "{cap}"' for service, cap in caps.items())
    return f"ceph auth get-or-create client.provisioner \\\n    {quoted}"


def _volume_osd_caps(pools: Sequence[str]) -> str:
    """A POSIX pattern for whole caps of a volume's user, of ours and no others' pools.

    Every character stands in a positive class, so that no newline or quote gets in. Full rights are for an image's own
    objects, by its id, which librbd makes 5 to 14 digits long; anything else (the way from name to id, a clone's
    ancestors) is for reading.
    """
    names = "|".join(pool.replace(".", "[.]") for pool in pools)
    where = f"pool=({names})( namespace={_WORD})? object_prefix rbd_"
    own = f"rwx {where}((header|object_map)[.]{_IMAGE_ID}|data([.][0-9]+)?[.]{_IMAGE_ID}[.])"
    foreign = f"(r )?class-read {where}(info|directory|trash|(id|header|data|object_map)[.]{_WORD})"
    return f"((^|, )allow ({own}|{foreign}))+"
