"""The kinds of device: the kernel's own client (krbd), rbd-nbd, and qemu's in user space behind FUSE and a loop device."""
