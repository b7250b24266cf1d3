"""What `hack/bench csi` and `hack/bench list` are made of."""
