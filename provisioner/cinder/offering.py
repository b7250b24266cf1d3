"""What a class asks of Cinder in place of a layout: a volume type by its administrator's name, and an availability zone."""

from dataclasses import dataclass

from provisioner.core.errors import OutOfRange
from provisioner.core.model import Layout, SizeRange

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Offering(Layout):
    """Empty means Cinder's default. How a volume lies in its backend is Cinder's business: the layout's own fields stay unset."""

    type: str = ""
    zone: str = ""

    def described(self) -> dict[str, str]:
        """Words for comparing and keeping."""
        return {key: value for key, value in (("type", self.type), ("availability", self.zone)) if value}

    def rounded(self, size: SizeRange) -> SizeRange:
        """Up to what Cinder counts in. Raises OutOfRange where that goes over the limit."""
        required = -(-size.required // GIB) * GIB
        if size.limit and required > size.limit:
            raise OutOfRange("size", size.required, f"rounded up to GiB is over the limit of {size.limit} bytes")
        return SizeRange(required, size.limit)

    def check_size(self, size: int) -> None:
        """Any size may do: Cinder knows its backends' limits and says no itself."""
