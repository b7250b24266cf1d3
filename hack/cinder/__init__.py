"""A Cinder for development: API, scheduler and volume services in one process, Keystone beside it on request."""
