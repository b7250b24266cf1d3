"""What every Kubernetes front end shares: the API server's transport, watched caches, work queue, lease, events.

The only part that talks to an API server. It knows nothing of claims, volumes or Ceph: objects are plain dicts, as they
came. Building the typed objects of the usual clients costs 5 to 60 times the CPU of reading them, and 40 MB of imports.
"""
