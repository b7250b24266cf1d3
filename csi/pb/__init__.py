"""The CSI wire contract in Python, made by hack/generate from proto/csi."""
