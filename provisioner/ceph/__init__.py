"""The Ceph store: the one importer of rados and rbd. `store.CephStore` is its door; every error that leaves is the core's."""
