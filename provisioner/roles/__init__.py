"""The roles on the command line, one command each: its options, and what it is wired of.

What a role alone needs (gRPC, an API server, a cloud, a gateway) is imported when it runs, so that the others do without.
"""
