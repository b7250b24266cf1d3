"""What `hack/bench csi`, `list` and `cinder` are made of."""
