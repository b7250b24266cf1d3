"""A node: containerd and a kubelet on this very machine, which run pods of the cluster.

Everything of theirs lies in the cluster's directory but for the containers' control groups and the sockets of containerd's
shims, so that several clusters can have a node each. Pods share the machine's network (`hostNetwork: true`): no network is made.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import image
from .remains import Remains

NAME = "localhost"
"""Of the node: the API server reaches the kubelet by it, for logs and exec."""

SECONDS_TO_IMPORT = 60.0
_LONGEST_SOCKET = 107
_LONGEST_NAME = "plugins_registry/rbd.ceph-provisioner.io-reg.sock"
_PROGRAMS = {
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "busybox": "busybox-static",
}
"""What a node needs of Debian, and where it is found."""

_CONTAINERD = """\
version = 2
root = "{home}/containerd/root"
state = "{home}/containerd/state"
[grpc]
address = "{home}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
stream_server_address = "{address}"
stream_server_port = "0"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{home}/cni"
conf_dir = "{home}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{home}/containerd/runc"
SystemdCgroup = false
"""
# restrict_oom_score_adj: without CAP_SYS_RESOURCE no process may protect itself better than it is.
# snapshotter: a copy of the one small image costs less than what an overlay asks of the kernel below.

_NETWORK = '{"cniVersion":"0.4.0","name":"none","plugins":[{"type":"loopback"}]}'
"""Says that there is a network. It is used by no pod that has the machine's."""

_KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
port: {port}
readOnlyPort: 0
healthzPort: 0
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {home}/pki/ca.crt}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {home}/pki/server.crt
tlsPrivateKeyFile: {home}/pki/server.key
containerRuntimeEndpoint: unix://{home}/containerd.sock
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
resolvConf: ""
makeIPTablesUtilChains: false
evictionHard: {{memory.available: 50Mi}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
volumePluginDir: {home}/flexvolumes
podLogsDir: {home}/pods
nodeStatusUpdateFrequency: 1s
syncFrequency: 2s
"""
# nodeStatusUpdateFrequency: a volume is mounted once the status says that it is about to be, and detached once it does no more.
# syncFrequency: how soon it is noticed that a volume has grown.


@dataclass(frozen=True, slots=True)
class Node:
    """The node of the cluster in `home`; its kubelet listens on `port`. `version` is a minor, `1.30`.

    `address` is one that the machine has; the node of another machine writes its configuration here all the same.
    """

    home: Path
    port: int
    version: str
    address: str = "127.0.0.1"

    @property
    def root(self) -> Path:
        """The kubelet's directory, /var/lib/kubelet elsewhere."""
        return self.home / "kubelet"

    @property
    def socket(self) -> Path:
        """Containerd's socket."""
        return self.home / "containerd.sock"

    @property
    def remains(self) -> Remains:
        """What there is of it beside its daemons."""
        return Remains(self.home)

    def missing(self) -> str:
        """What keeps this machine from running pods there, in one sentence; "" if nothing does."""
        if os.geteuid():
            return "a kubelet runs as root only"
        for program, package in _PROGRAMS.items():
            if shutil.which(program) is None:
                return f"no `{program}` on the PATH: apt-get install {package}"
        if not os.access("/sys/fs/cgroup", os.W_OK):
            return "/sys/fs/cgroup can't be written: containers have no control groups here"
        beyond = len(os.fsencode(self.root / _LONGEST_NAME)) - _LONGEST_SOCKET
        return f"{self.home} is {beyond} bytes too long for the sockets of CSI plugins below it" if beyond > 0 else ""

    def prepare(self) -> None:
        """Write the configuration of both daemons."""
        for name in ("cni", "containerd", "kubelet/plugins", "kubelet/plugins_registry"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        (self.home / "cni" / "none.conflist").write_text(_NETWORK)
        (self.home / "containerd.toml").write_text(_CONTAINERD.format(home=self.home, address=self.address, image=image.NAME))
        config = _KUBELET.format(home=self.home, address=self.address, port=self.port)
        # known since 1.31: a kubelet would no longer start on control groups of version 1, as long as nobody says that it may
        config += "failCgroupV1: false\n" if self.version != "1.30" else ""
        (self.home / "kubelet.yaml").write_text(config)

    def containerd(self) -> tuple[str, ...]:
        """The runtime's command line."""
        return ("containerd", "--config", f"{self.home}/containerd.toml")

    def kubelet(self, hyperkube: Path) -> tuple[str, ...]:
        """The kubelet's command line."""
        return (
            str(hyperkube),
            "kubelet",
            "--config=kubelet.yaml",
            "--kubeconfig=kubelet.kubeconfig",
            f"--root-dir={self.root}",
            f"--hostname-override={NAME}",
        )

    def answers(self) -> bool:
        """Whether the runtime does."""
        words = ["ctr", "--address", str(self.socket), "version"]
        return self.socket.exists() and not subprocess.run(words, capture_output=True).returncode

    def offer_image(self) -> None:
        """Give the runtime the one image that pods can be made of; raises ImageError."""
        image.offer(self.socket, self.home / "busybox.tar", SECONDS_TO_IMPORT)
