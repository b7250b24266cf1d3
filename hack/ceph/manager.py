"""The manager's modules: three real ones, compiled, and empty stand-ins for the rest.

The manager imports every module on its path, each in a Python interpreter of its own, and never writes the compiled
form back. With Debian's directory that is 20 s of CPU and 300 MiB; with this one, 1.5 s and 110 MiB. A module of the
always-on list that is not there would make the cluster HEALTH_ERR, so the ones nobody needs here become stand-ins.
"""

import compileall
import shutil
from pathlib import Path

from .packages import MANAGER_MODULES

_SHARED = ("mgr_module.py", "mgr_util.py")
# rbd_support runs `rbd task`; its thread dies if it cannot report to progress.
_REAL = ("rbd_support", "progress")
_STAND_INS = (
    "balancer",
    "crash",
    "devicehealth",
    "orchestrator",
    "pg_autoscaler",
    "status",
    "telemetry",
    "volumes",
)
_STAND_IN = """\
from mgr_module import MgrModule


class Module(MgrModule):
    NOTIFY_TYPES = []
"""


def write_modules(target: Path) -> None:
    """Fill the new directory `target`, the manager's `mgr_module_path`. Takes half a second of CPU."""
    target.mkdir()
    for name in _SHARED:
        # From Ceph 18 on Debian 13: this bcrypt refuses to load in a second interpreter, and every module with it.
        source = (MANAGER_MODULES / name).read_text().replace("\nimport bcrypt\n", "\nbcrypt = None\n")
        (target / name).write_text(source)
    for name in _REAL:
        shutil.copytree(MANAGER_MODULES / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    for name in _STAND_INS:
        (target / name).mkdir()
        (target / name / "__init__.py").write_text("from .module import Module\n")
        (target / name / "module.py").write_text(_STAND_IN)
    compileall.compile_dir(target, quiet=2)
