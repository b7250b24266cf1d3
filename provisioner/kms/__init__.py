"""Where the keys of encrypted volumes are kept: one small class for each kind of KMS, and the config file's section of them."""
