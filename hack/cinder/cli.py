"""The command line of hack/dev-cinder."""

import argparse
import json
import shutil
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from hack import directories
from hack.ceph.admin import CommandError
from hack.ceph.files import free_port
from hack.directories import locked, say
from hack.kubernetes.processes import StillRunningError

from .environment import InstallError, made
from .http import NoAnswerError
from .service import Service, ServiceError
from .settings import Settings

DESCRIPTION = """\
A Cinder in one directory, on loopback, over a Ceph of hack/dev-ceph: API, scheduler and volume services in one process.
Volume type `rbd` has Cinder's RBD driver; with --iscsi, type `iscsi` exports images through Debian's tgt, with CHAP.
The same Cinder has a second door, which asks a Keystone who calls; --keystone starts that.
The first start of all installs both from PyPI, a minute or two, unless `build` did; later ones take seconds.
"""
EPILOG = """\
The last line on stdout of `start` is JSON: {"endpoint": URL, "token": "USER:PROJECT", "pool": NAME, "user": NAME,
"keyring": FILE, "types": [NAME]}, and with --keystone "auth_url": URL, "clouds": FILE. All else goes to stderr.
The environment is kept in ${CEPH_PROVISIONER_CACHE:-${XDG_CACHE_HOME:-~/.cache}/ceph-provisioner}/cinder.
"""
LOCK = "dev-cinder.lock"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status says whether it worked."""
    signal.signal(signal.SIGTERM, directories.leave)  # so that what a start began is ended, as on Ctrl-C
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (InstallError, ServiceError, CommandError, NoAnswerError, StillRunningError, OSError) as error:
        say(f"dev-cinder: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="dev-cinder", description=DESCRIPTION, epilog=EPILOG, formatter_class=formatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="install beforehand; the environment's path on stdout")
    build.set_defaults(run=_build)

    start = commands.add_parser("start", help="bring up a Cinder, or what of it has died")
    start.add_argument("dir", type=Path, metavar="DIR")
    start.add_argument("--ceph", type=Path, metavar="DIR", help="a directory of hack/dev-ceph; needed the first time")
    start.add_argument("--pool", default="volumes", metavar="NAME", help="made if it isn't there; default: volumes")
    start.add_argument("--iscsi", action="store_true", help="a second backend, behind tgt")
    start.add_argument("--keystone", action="store_true", help="the Keystone that the second door asks; may be added later")
    start.set_defaults(run=_start)

    stop = commands.add_parser("stop", help="end its processes")
    stop.add_argument("dir", type=Path, metavar="DIR")
    stop.add_argument("--purge", action="store_true", help="and remove DIR; images stay in the pool")
    stop.set_defaults(run=_stop)

    status = commands.add_parser("status", help="a line per process; exit status 1 if one does not run")
    status.add_argument("dir", type=Path, metavar="DIR")
    status.set_defaults(run=_status)
    return parser


def _build(_: argparse.Namespace) -> int:
    print(made(say).home)
    return 0


def _start(options: argparse.Namespace) -> int:
    home = options.dir.resolve()
    if options.iscsi and not all(map(shutil.which, ("tgtd", "tgt-admin"))):
        raise ServiceError("not installed: apt-get install --no-install-recommends tgt tgt-rbd")
    environment = made(say)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(home / LOCK), ExitStack() as undo:
        fresh = Settings.load(home) is None
        service = Service(home, _settings(home, options))
        service.settings.save(home)
        if fresh:
            undo.callback(service.stop)
        service.start(environment, say)
        undo.pop_all()
    print(json.dumps(service.client()), flush=True)
    return 0


def _settings(home: Path, options: argparse.Namespace) -> Settings:
    """What DIR has, with what the command line adds."""
    kept = Settings.load(home)
    if kept is None and options.ceph is None:
        raise ServiceError("--ceph is needed the first time")
    settings = kept or Settings(str(options.ceph.resolve()), options.pool, free_port(), free_port(), free_port())
    if options.iscsi and not settings.iscsi:
        settings = replace(settings, iscsi=free_port())
    return replace(settings, with_keystone=settings.with_keystone or options.keystone)


def _existing(home: Path) -> Service:
    settings = Settings.load(home)
    if settings is None:
        raise ServiceError(f"{home} holds no Cinder")
    return Service(home, settings)


def _stop(options: argparse.Namespace) -> int:
    home = options.dir.resolve()
    return directories.stop(_existing(home), home / LOCK, purge=options.purge)


def _status(options: argparse.Namespace) -> int:
    service = _existing(options.dir.resolve())
    return directories.tell({name: service.process(name) for name in service.parts})
