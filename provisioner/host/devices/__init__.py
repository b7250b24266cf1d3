"""The kinds of device: the kernel's own client (krbd), and qemu's in user space behind FUSE and a loop device."""
