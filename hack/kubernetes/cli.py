"""The command line of hack/dev-kubernetes."""

import argparse
import json
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hack import directories
from hack.directories import locked, say

from . import versions
from .build import BuildError, built
from .cluster import DAEMONS, KUBELET, Cluster, ClusterError, Settings, free_ports
from .flags import Ports, Programs
from .image import ImageError
from .node import NAME as NODE
from .pki import CertificateError
from .processes import StillRunningError
from .remains import RemainsError

DESCRIPTION = """\
A Kubernetes control plane in one directory, on loopback: etcd, kube-apiserver with RBAC, kube-controller-manager
with the volume controllers, kube-scheduler. Several can run at once, in different directories.
With --kubelet it has a node, too: containerd and a kubelet run pods on this machine, as root, in its network
(hostNetwork: true), from the one image localhost/busybox:1. The kubelet sets sysctls as on any node (vm.overcommit_memory=1,
kernel.panic=10, kernel.panic_on_oops=1), and they stay.
The first start of a version compiles it, about 10 minutes on two cores, unless `build` did; later ones take seconds.
"""
LOCK = "dev-kubernetes.lock"
EPILOG = """\
The last line on stdout of `start` is JSON: {"kubeconfig": FILE, "version": "v1.30.14"}, with --kubelet also
{"node": NAME, "kubelet": DIR, "containerd": SOCKET}. All else goes to stderr.
Binaries are kept in ${CEPH_PROVISIONER_CACHE:-${XDG_CACHE_HOME:-~/.cache}/ceph-provisioner}.
Tests can use an existing cluster instead: CEPH_PROVISIONER_TEST_KUBECONFIG names an administrator's kubeconfig.
Needs Go to compile, Debian's openssl, and for 1.30 Debian's etcd-server (1.36 needs a newer one, which is built);
for a node Debian's containerd, runc and busybox-static.
"""


_TOLD = (BuildError, CertificateError, ClusterError, ImageError, RemainsError, StillRunningError, OSError)
"""Errors whose text is all that there is to say."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status says whether it worked."""
    signal.signal(signal.SIGTERM, directories.leave)  # so that what a start began is ended, as on Ctrl-C
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except _TOLD as error:
        say(f"dev-kubernetes: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dev-kubernetes",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    pins, default = versions.pins()
    known = sorted(pins)

    build = commands.add_parser("build", help="compile a version beforehand; its path on stdout")
    build.add_argument("--version", choices=known, default=default)
    build.set_defaults(run=_build)

    start = commands.add_parser("start", help="bring up a cluster, or what of it has died")
    start.add_argument("dir", type=Path, metavar="DIR")
    start.add_argument("--version", choices=known, help=f"default: what DIR has, else {default}")
    _add_settings(start)
    start.set_defaults(run=_start)

    stop = commands.add_parser("stop", help="end a cluster's daemons")
    stop.add_argument("dir", type=Path, metavar="DIR")
    stop.add_argument("--purge", action="store_true", help="and remove DIR")
    stop.set_defaults(run=_stop)

    status = commands.add_parser("status", help="a line per daemon; exit status 1 if one does not run")
    status.add_argument("dir", type=Path, metavar="DIR")
    status.set_defaults(run=_status)

    restart = commands.add_parser("restart-daemon", help="end one daemon if it runs, and start it")
    restart.add_argument("dir", type=Path, metavar="DIR")
    restart.add_argument("daemon", choices=DAEMONS, metavar="NAME", help=", ".join(DAEMONS))
    restart.set_defaults(run=_restart)
    return parser


def _add_settings(start: argparse.ArgumentParser) -> None:
    kept = "repeatable; kept for later starts that give none"
    start.add_argument("--scheduler", action=argparse.BooleanOptionalAction, help="run kube-scheduler (default)")
    node = "run pods on this machine: containerd and a kubelet (default: none)"
    start.add_argument("--kubelet", action=argparse.BooleanOptionalAction, help=node)
    start.add_argument("--apiserver-arg", action="append", metavar="FLAG", help=f"e.g. --apiserver-arg=--v=4; {kept}")
    start.add_argument("--controller-manager-arg", action="append", metavar="FLAG", help=kept)


def _pin(version: str) -> versions.Pin:
    return versions.pins()[0][version]


def _programs(pin: versions.Pin) -> Programs:
    """The binaries, built if need be; what Debian should have brought is looked for first."""
    _debian("openssl", "openssl")
    etcd = None if pin.etcd else _debian("etcd", "etcd-server")
    return Programs(
        etcd=etcd or built(versions.etcd(str(pin.etcd)), say),
        hyperkube=built(versions.kubernetes(pin), say),
    )


def _debian(program: str, package: str) -> Path:
    found = shutil.which(program)
    if found is None:
        raise ClusterError(f"no `{program}` on the PATH: apt-get install {package}")
    return Path(found)


def _build(options: argparse.Namespace) -> int:
    print(_programs(_pin(options.version)).hyperkube)
    return 0


def _start(options: argparse.Namespace) -> int:
    home = options.dir.resolve()
    pin = _pin(_version(home, options))
    programs = _programs(pin)
    directories.claim(home / LOCK, ClusterError)
    with locked(home / LOCK):
        cluster = Cluster(home, _settings(home, options))
        cluster.settings.save(home)
        cluster.start(programs, say)
    print(json.dumps({"kubeconfig": str(cluster.kubeconfig), "version": pin.release, **_told(cluster)}), flush=True)
    return 0


def _told(cluster: Cluster) -> dict[str, str]:
    if KUBELET not in cluster.settings.daemons:
        return {}
    node = cluster.node
    return {"node": NODE, "kubelet": str(node.root), "containerd": str(node.socket)}


def _version(home: Path, options: argparse.Namespace) -> str:
    kept = Settings.load(home)
    if kept and options.version not in (None, kept.version):
        raise ClusterError(f"{home} holds a cluster of {kept.version}: `stop --purge` it first")
    return kept.version if kept else options.version or versions.pins()[1]


def _settings(home: Path, options: argparse.Namespace) -> Settings:
    """What DIR has, changed by what the command line says."""
    settings = Settings.load(home) or Settings(_version(home, options), Ports(*free_ports(3)))
    if options.scheduler is not None:
        settings = replace(settings, scheduler=options.scheduler)
    if options.kubelet is not None:
        port = settings.kubelet_port or free_ports(1)[0]
        settings = replace(settings, kubelet_port=port if options.kubelet else 0)
    if options.apiserver_arg:
        settings = replace(settings, apiserver_args=tuple(options.apiserver_arg))
    if options.controller_manager_arg:
        settings = replace(settings, controller_manager_args=tuple(options.controller_manager_arg))
    return settings


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
    return directories.tell({name: cluster.process(name) for name in cluster.settings.daemons})


def _restart(options: argparse.Namespace) -> int:
    home = options.dir.resolve()
    cluster = _existing(home)
    if options.daemon not in cluster.settings.daemons:
        raise ClusterError(f"{home} runs no {options.daemon}")
    with locked(home / LOCK):
        cluster.restart(options.daemon, _programs(_pin(cluster.settings.version)), say)
    return 0
