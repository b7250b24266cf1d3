"""The certificates of one cluster, and the kubeconfig files that name them.

One authority signs the server's certificate and a client certificate per user; RBAC goes by the names in them.
Python's standard library cannot sign, so Debian's openssl does.
"""

import json
import shutil
import subprocess
from pathlib import Path

USERS = {
    "admin": "/O=system:masters/CN=admin",
    "kube-controller-manager": "/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
    "kubelet": "/O=system:nodes/CN=system:node:localhost",
}
CONFIG = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign, digitalSignature
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, IP:10.96.0.1, DNS:localhost, DNS:kubernetes, DNS:kubernetes.default, \
DNS:kubernetes.default.svc
[client]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
"""


class CertificateError(Exception):
    """openssl failed; the text is what it said."""


def make(directory: Path) -> None:
    """Fill `directory` with ca, server, user certificates and the service accounts' key, unless it is there."""
    if directory.exists():
        return
    work = directory.with_suffix(".new")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    (work / "openssl.cnf").write_text(CONFIG)
    _sign(work, "ca", "/CN=dev-kubernetes", "authority", authority=None)
    _sign(work, "server", "/CN=kube-apiserver", "server", authority="ca")
    for user, subject in USERS.items():
        _sign(work, user, subject, "client", authority="ca")
    # Not genpkey: Kubernetes reads an elliptic key in the old form only.
    _openssl(work, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "accounts.key")
    work.rename(directory)


def write_kubeconfig(path: Path, user: str, server: str, pki: Path) -> None:
    """A kubeconfig for one of USERS, as JSON (which is YAML), readable by its owner only."""
    certificate = {"client-certificate": str(pki / f"{user}.crt"), "client-key": str(pki / f"{user}.key")}
    cluster = {"server": server, "certificate-authority": str(pki / "ca.crt")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "dev",
        "clusters": [{"name": "dev", "cluster": cluster}],
        "users": [{"name": user, "user": certificate}],
        "contexts": [{"name": "dev", "context": {"cluster": "dev", "user": user}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1) + "\n")


def _sign(work: Path, name: str, subject: str, kind: str, *, authority: str | None) -> None:
    by = ["-CA", f"{authority}.crt", "-CAkey", f"{authority}.key"] if authority else []
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", f"{name}.key"]
    form = ["-x509", "-days", "3650", "-config", "openssl.cnf", "-extensions", kind, "-subj", subject]
    _openssl(work, "req", *form, *by, *key, "-out", f"{name}.crt")


def _openssl(work: Path, *words: str) -> None:
    done = subprocess.run(["openssl", *words], cwd=work, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise CertificateError(f"openssl {words[0]} failed: {done.stderr}")
