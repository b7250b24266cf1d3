"""What client.provisioner may do."""

from collections.abc import Sequence


def provisioner_caps(pools: Sequence[str], *, users: bool) -> dict[str, str]:
    """Its caps by service, in these pools; `users` adds the right to make cephx users."""
    rights = {"mon": "profile rbd", "osd": ", ".join(f"profile rbd pool={pool}" for pool in pools)}
    if users:
        for command in ("auth get-or-create", "auth rm", "auth del"):
            rights["mon"] += f", allow command '{command}' with entity prefix client.cp-"
    return rights
