"""The command line of hack/dev-ceph."""

import argparse
import json
import re
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import rados
import rbd

from hack import directories
from hack.directories import locked, say
from hack.kubernetes.processes import StillRunningError

from .admin import CommandError
from .caps import operator_command
from .cluster import Cluster, ClusterError
from .files import Settings, free_port
from .packages import missing

DESCRIPTION = """\
A Ceph cluster in one directory, on loopback: monitor, manager, OSDs on sparse files, radosgw on request.
Root or not, several at once in different directories, about two seconds to start.
"""
EPILOG = """\
The last line on stdout of `start` is JSON: {"conf": FILE, "keyring": FILE, "user": "provisioner", "pool": NAME,
"fsid": ID, "monitors": ["127.0.0.1:PORT"]}, and with --rgw "gateway": URL. All else goes to stderr.
The administrator's key lies beside: `ceph -c DIR/ceph.conf -s`.
"""
LOCK = "dev-ceph.lock"
_POOL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_UNITS = {"M": 20, "G": 30, "T": 40}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status says whether it worked."""
    signal.signal(signal.SIGTERM, directories.leave)  # so that what a first start began is ended, as on Ctrl-C
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ClusterError, CommandError, StillRunningError, rados.Error, rbd.Error) as error:
        say(f"dev-ceph: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dev-ceph",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    start = commands.add_parser("start", help="bring up a cluster, or what of it has died")
    start.add_argument("dir", type=Path, metavar="DIR")
    _add_settings(start)
    start.set_defaults(run=_start)

    caps = commands.add_parser("caps", help="the command that makes client.provisioner in a cluster of your own")
    _add_rights(caps)
    caps.set_defaults(run=_caps)

    stop = commands.add_parser("stop", help="end a cluster's daemons")
    stop.add_argument("dir", type=Path, metavar="DIR")
    stop.add_argument("--purge", action="store_true", help="and remove DIR")
    stop.set_defaults(run=_stop)

    status = commands.add_parser("status", help="a line per daemon; exit status 1 if one does not run")
    status.add_argument("dir", type=Path, metavar="DIR")
    status.set_defaults(run=_status)

    restart = commands.add_parser("restart-daemon", help="end one daemon if it runs, and start it")
    restart.add_argument("dir", type=Path, metavar="DIR")
    restart.add_argument("daemon", metavar="NAME", help="mon.a, mgr.x, osd.0 ... or client.rgw.x")
    restart.set_defaults(run=_restart)
    return parser


def _add_settings(start: argparse.ArgumentParser) -> None:
    _add_rights(start)
    start.add_argument("--size", type=_bytes, metavar="SIZE", help="of each OSD when it is made; default: 10G")
    start.add_argument("--osds", type=int, choices=range(1, 10), metavar="N", help="how many when it is made; default: 1")
    start.add_argument("--rgw", action="store_true", help="run radosgw, too")


def _add_rights(command: argparse.ArgumentParser) -> None:
    command.add_argument("--pool", action="append", type=_pool, metavar="NAME", help="repeatable; default: rbd")
    command.add_argument(
        "--users",
        action=argparse.BooleanOptionalAction,
        help="let client.provisioner make a cephx user per volume (default)",
    )


def _pool(text: str) -> str:
    if not _POOL.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: a pool's name is made of letters, digits, _, . and -")
    return text


def _bytes(text: str) -> int:
    number, unit = text[:-1], text[-1:].upper()
    if not number.isdigit() or unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r}: a size is a number and M, G or T")
    return int(number) << _UNITS[unit]


def _start(options: argparse.Namespace) -> int:
    home = options.dir.resolve()
    if options.rgw and (lacking := missing("radosgw")):
        raise ClusterError(f"not installed: apt-get install --no-install-recommends {' '.join(lacking)}")
    directories.claim(home / LOCK, ClusterError)
    with locked(home / LOCK), ExitStack() as undo:
        fresh = Settings.load(home) is None
        cluster = Cluster(home, _settings(home, options))
        cluster.settings.save(home)
        if fresh:
            undo.callback(cluster.stop)
        cluster.start(say)
        undo.pop_all()
    print(json.dumps(cluster.client()), flush=True)
    return 0


def _caps(options: argparse.Namespace) -> int:
    print(operator_command(options.pool or ["rbd"], users=options.users is not False))
    return 0


def _settings(home: Path, options: argparse.Namespace) -> Settings:
    """What DIR has, changed by what the command line says."""
    kept = Settings.load(home)
    if kept and options.size not in (None, kept.size):
        raise ClusterError(f"{home} holds a cluster of another size: `stop --purge` it first")
    if kept and options.osds not in (None, kept.osds):
        raise ClusterError(f"{home} holds a cluster of {kept.osds} OSDs: `stop --purge` it first")
    settings = kept or Settings(
        fsid=str(uuid4()),
        msgr2=free_port(),
        msgr1=free_port(),
        gateway=0,
        size=options.size or 10 << 30,
        pools=tuple(options.pool or ["rbd"]),
        users=True,
        osds=options.osds or 1,
    )
    pools = tuple(dict.fromkeys([*settings.pools, *(options.pool or [])]))
    gateway = settings.gateway or (free_port() if options.rgw else 0)
    users = settings.users if options.users is None else options.users
    return replace(settings, pools=pools, gateway=gateway, users=users)


def _existing(home: Path) -> Cluster:
    settings = Settings.load(home)
    if settings is None:
        raise ClusterError(f"{home} holds no cluster")
    return Cluster(home, settings)


def _stop(options: argparse.Namespace) -> int:
    home = options.dir.resolve()
    return directories.stop(_existing(home), home / LOCK, purge=options.purge)


def _status(options: argparse.Namespace) -> int:
    cluster = _existing(options.dir.resolve())
    return directories.tell({name: cluster.process(name) for name in cluster.daemons})


def _restart(options: argparse.Namespace) -> int:
    home = options.dir.resolve()
    cluster = _existing(home)
    if options.daemon not in cluster.daemons:
        raise ClusterError(f"{home} runs no {options.daemon}")
    with locked(home / LOCK):
        cluster.restart(options.daemon, say)
    return 0
