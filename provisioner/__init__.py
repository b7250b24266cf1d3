"""ceph-provisioner: block volumes from a Ceph cluster for whoever asks, through one core."""

__version__ = "0.1.0"
