"""The standard sidecars of a CSI controller, built from the module proxy: what stands between Kubernetes and a driver."""
