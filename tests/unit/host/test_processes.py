"""The end of a process that serves a device, as the first process of a container sees it. A second."""

import subprocess
import sys

_IN_A_CONTAINER = """
import ctypes, os, signal, subprocess
from provisioner.host.processes import ended
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
told = subprocess.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE).stdout
os.kill(int(told), signal.SIGTERM)
print(ended(int(told), 10), os.path.exists(f"/proc/{int(told)}"))
"""


def test_a_daemon_whose_parent_is_gone_is_buried_by_who_inherits_it() -> None:
    done = subprocess.run([sys.executable, "-c", _IN_A_CONTAINER], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("True False", "")
