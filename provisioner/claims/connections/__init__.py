"""Connections as PersistentVolume sources: one small class per `driver_volume_type`, each in a file of its own.

A new one is a file here, a line in `claims.connected.kinds`, and a test.
"""
