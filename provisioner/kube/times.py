"""Times as Kubernetes writes them: seconds in most objects, microseconds in leases. Always UTC, always now."""

from datetime import UTC, datetime


def now_seconds() -> str:
    """A `metav1.Time`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_micro() -> str:
    """A `metav1.MicroTime`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
