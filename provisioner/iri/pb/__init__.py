"""The wire contract of IronCore's runtime interface in Python, made by hack/generate from proto/iri."""
