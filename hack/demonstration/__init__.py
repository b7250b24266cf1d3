"""What `make demo` shows: claims that become native volumes, and at the end pods that use a CSI volume."""
