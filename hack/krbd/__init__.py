"""A small virtual machine with Debian's kernel, for what this machine's own kernel can't do: rbd, nbd, dm-crypt."""
