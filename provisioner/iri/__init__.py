"""The IronCore front end: its runtime interface for volumes and buckets in terms of the core."""
