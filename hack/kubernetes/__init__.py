"""What hack/dev-kubernetes is made of: the build, the certificates, the daemons and their flags."""
