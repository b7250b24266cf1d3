"""What hack/dev-ceph is made of: settings, files, the manager's modules, the daemons, and the provisioner's rights."""
