"""The CSI front end: the calls of spec 1.13 in terms of the core. It needs no Kubernetes."""
