"""The CSI conformance suite, csi-sanity, built from the module proxy: a driver's judge that nobody here wrote."""
