"""The Cinder store: the one importer of the OpenStack SDK. Volumes, and the connections that nodes reach them by."""
