"""Cinder's API, scheduler and volume services in one process; runs in Cinder's own environment.

    server.py --config-file cinder.conf READY PORT

READY is a file that is made when the API listens; at PORT, the same API asks Keystone who calls.
No message bus: services of one process call each other through oslo.messaging's in-memory transport.
"""
# ruff: noqa: E402, I001  (nothing may be imported before the patch)

from cinder import monkey_patch

monkey_patch.patch()

import os
import signal
import sys
import threading
from pathlib import Path

import os_brick
from oslo_config import cfg
from oslo_log import log as logging

from cinder import coordination, objects, privsep, rpc, service, version
from cinder.common import config, constants


def main(ready: str, port: str) -> None:
    """Serve until SIGTERM."""
    logging.setup(cfg.CONF, "cinder")
    privsep.sys_admin_pctxt.set_client_mode(False)  # what asks for root's rights runs here, or fails: no sudo
    os_brick.setup(cfg.CONF)
    coordination.COORDINATOR.start()
    rpc.init(cfg.CONF)
    _let_objects_be_copied()
    service.Service.create(binary=constants.SCHEDULER_BINARY).start()
    for backend in cfg.CONF.enabled_backends:
        host = f"{cfg.CONF.host}@{backend}"
        service.Service.create(binary=constants.VOLUME_BINARY, host=host, service_name=backend, coordination=False).start()
    _serve_api(port)
    Path(ready).touch()
    threading.Event().wait()  # the patched one: this thread makes way for the services


def _serve_api(port: str) -> None:
    service.WSGIService("osapi_volume").start()
    cfg.CONF.set_override("auth_strategy", "keystone")
    cfg.CONF.set_override("osapi_volume_listen_port", int(port))
    service.WSGIService("osapi_volume").start()


def _let_objects_be_copied() -> None:
    """The in-memory transport passes objects where another passes JSON: listing pools in detail copies them."""
    from cinder.scheduler import host_manager

    host_manager.ReadOnlyDict.copy = lambda self: dict(self)


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
objects.register_all()  # before anything imports the volume manager
cfg.CONF(sys.argv[1:3], project="cinder", version=version.version_string())
config.set_middleware_defaults()
main(*sys.argv[3:])
