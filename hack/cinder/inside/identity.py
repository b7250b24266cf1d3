"""Keystone in one process; runs in Cinder's own environment.

    identity.py PORT keystone.conf

No caller but tests: werkzeug's server is enough.
"""

import sys

from keystone.server.flask import core
from werkzeug.serving import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    """Says nothing of requests: Keystone has a log."""

    def log_request(self, *_):
        pass


port, conf = int(sys.argv[1]), sys.argv[2]
del sys.argv[1:]  # Keystone would read them
application = core.initialize_application(name="public", config_files=[conf])
make_server("127.0.0.1", port, application, threaded=True, request_handler=Quiet).serve_forever()
