"""Which of Debian's packages a cluster is made of, told before anything imports from them."""

import shutil
from importlib.util import find_spec
from pathlib import Path

MANAGER_MODULES = Path("/usr/share/ceph/mgr")
_PROGRAMS = {
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "ceph-mgr": "ceph-mgr",
    "monmaptool": "ceph-base",
}
_PYTHON = {"rados": "python3-rados", "rbd": "python3-rbd"}


def missing(*programs: str) -> list[str]:
    """Packages that are not installed: those every cluster needs, and those named after further `programs`."""
    wanted = _PROGRAMS | {program: program for program in programs}
    found = [package for program, package in wanted.items() if shutil.which(program) is None]
    found += [package for module, package in _PYTHON.items() if find_spec(module) is None]
    if not (MANAGER_MODULES / "rbd_support").is_dir():
        found.append("ceph-mgr-modules-core")
    return found
