"""kubeconfig and credentials: whom we talk to, as whom, and that both stay fresh."""

import base64
import json
import os
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from provisioner.kube import errors
from provisioner.kube.credentials import Credentials
from provisioner.kube.kubeconfig import Access, from_file, in_cluster, load
from provisioner.kube.transport import Api
from tests.harness.waiting import until
from tests.unit.kube.troubled_apiserver import Server, refused


def kubeconfig(folder: Path, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> Path:
    path = folder / "config"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "dev",
        "clusters": [{"name": "c", "cluster": {"server": "https://api.test:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "dev", "context": {"cluster": "c", "user": "u", "namespace": "storage"}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


class TestFiles:
    def test_the_current_context_is_taken(self, tmp_path: Path) -> None:
        access = from_file(kubeconfig(tmp_path))
        assert (access.server, access.namespace) == ("https://api.test:6443", "storage")

    def test_files_are_sought_beside_the_kubeconfig(self, tmp_path: Path) -> None:
        user = {"client-certificate": "pki/me.crt", "client-key": "/abs/me.key", "tokenFile": "token"}
        access = from_file(kubeconfig(tmp_path, {"certificate-authority": "ca.crt"}, user))
        assert access.ca == tmp_path / "ca.crt"
        assert access.certificate == tmp_path / "pki/me.crt"
        assert access.key == Path("/abs/me.key")
        assert access.token_file == tmp_path / "token"

    def test_data_comes_before_files(self, tmp_path: Path) -> None:
        cluster = {"certificate-authority": "ca.crt", "certificate-authority-data": encoded(b"PEM")}
        assert from_file(kubeconfig(tmp_path, cluster)).ca == b"PEM"

    def test_what_kubectl_writes_for_nothing_is_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "config"
        path.write_text("clusters: null\ncontexts: null\ncurrent-context: ''\nusers: null\npreferences: {}\n")
        with pytest.raises(errors.ConfigError, match="no current-context"):
            from_file(path)

    @pytest.mark.parametrize(
        ("cluster", "user", "why"),
        [
            ({"proxy-url": "http://p"}, {}, "proxy-url is not supported"),
            ({}, {"as": "somebody"}, "as is not supported"),
            ({}, {"auth-provider": {"name": "gcp"}}, "auth-provider is not supported"),
            ({"server": "api.test"}, {}, "no http"),
            ({"server": 7}, {}, r"Expected `str`, got `int` - at `\$.clusters"),
            ({"certificate-authority-data": "%%"}, {}, "base64"),
            ({}, {"client-certificate": "me.crt"}, "together"),
        ],
    )
    def test_what_can_not_be_honoured_is_refused_by_name(
        self, tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], why: str
    ) -> None:
        with pytest.raises(errors.ConfigError, match=why) as caught:
            from_file(kubeconfig(tmp_path, cluster, user))
        assert str(tmp_path) in str(caught.value)

    def test_a_context_that_is_not_there_is_answered_with_those_that_are(self, tmp_path: Path) -> None:
        with pytest.raises(errors.ConfigError, match=r"no 'prod' in contexts \(there: dev\)"):
            from_file(kubeconfig(tmp_path), "prod")

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(errors.ConfigError, match="No such file"):
            from_file(tmp_path / "none")

    def test_a_named_file_comes_before_the_environment(self, tmp_path: Path) -> None:
        path = kubeconfig(tmp_path)
        assert load(str(path), environ={"KUBECONFIG": "/other"}).namespace == "storage"
        assert load(environ={"KUBECONFIG": str(path), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}).namespace == "storage"


class TestInCluster:
    @pytest.fixture
    def account(self, tmp_path: Path) -> Path:
        (tmp_path / "namespace").write_text("ceph\n")
        return tmp_path

    def test_the_pods_account_is_used(self, account: Path) -> None:
        access = in_cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}, account)
        assert (access.server, access.namespace) == ("https://10.0.0.1:6443", "ceph")
        assert (access.ca, access.token_file) == (account / "ca.crt", account / "token")

    def test_an_ipv6_address_is_bracketed(self, account: Path) -> None:
        assert in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1"}, account).server == "https://[fd00::1]:443"

    def test_a_pod_without_an_account_is_told_so(self, tmp_path: Path) -> None:
        with pytest.raises(errors.ConfigError, match="no service account"):
            in_cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestTokens:
    def test_a_rotated_token_is_read_again_in_time(self, tmp_path: Path) -> None:
        clock, token = Clock(), tmp_path / "token"
        token.write_text("first\n")
        credentials = Credentials(Access(server="http://x", token_file=token), clock)
        token.write_text("second\n")
        assert credentials.current().authorization == "Bearer first"
        clock.now += 11
        assert credentials.current().authorization == "Bearer second"

    def test_an_unchanged_login_is_the_same_object(self, tmp_path: Path) -> None:
        clock, token = Clock(), tmp_path / "token"
        token.write_text("first")
        credentials = Credentials(Access(server="http://x", token_file=token), clock)
        before = credentials.current()
        clock.now += 11
        assert credentials.current() is before

    def test_a_token_that_is_missing_for_a_moment_stays_in_use(self, tmp_path: Path) -> None:
        clock, token = Clock(), tmp_path / "token"
        token.write_text("first")
        credentials = Credentials(Access(server="http://x", token_file=token), clock)
        token.unlink()
        clock.now += 11
        assert credentials.current().authorization == "Bearer first"

    def test_a_token_missing_from_the_start_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(errors.ConfigError, match="token"):
            Credentials(Access(server="http://x", token_file=tmp_path / "token"))

    def test_a_refused_token_is_read_again_at_once(self, server: Server, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text("old")
        server.tokens = {"new"}
        api = Api(Access(server=server.url, ca=server.ca, token_file=token), "test/1")
        token.write_text("new")
        api.list_all("/api/v1/nodes")

    def test_a_login_refused_twice_is_an_error(self, server: Server) -> None:
        server.tokens = {"other"}
        api = Api(Access(server=server.url, ca=server.ca, token="mine"), "test/1")
        with pytest.raises(errors.Unauthorized):
            api.list_all("/api/v1/nodes")
        assert len(server.requests) == 2

    def test_name_and_password(self) -> None:
        login = Credentials(Access(server="http://x", basic=("me", "pw"))).current()
        assert login.authorization == "Basic " + encoded(b"me:pw")


class TestCertificates:
    @pytest.fixture
    def certified(self, server: Server, tmp_path: Path) -> Access:
        """An access by client certificate, in files; the server demands one."""
        server.tls.verify_mode = ssl.CERT_REQUIRED
        self.issue(server, tmp_path)
        return Access(server=server.url, ca=server.ca, certificate=tmp_path / "me.crt", key=tmp_path / "me.key")

    def issue(self, server: Server, folder: Path) -> None:
        issued = server.authority.issue_cert("me@test")
        issued.cert_chain_pems[0].write_to_path(str(folder / "me.crt"))
        issued.private_key_pem.write_to_path(str(folder / "me.key"))

    def test_a_certificate_from_files_logs_in(self, certified: Access) -> None:
        Api(certified, "test/1").list_all("/api/v1/nodes")

    def test_a_certificate_from_data_logs_in(self, certified: Access, server: Server, tmp_path: Path) -> None:
        certificate, key = (tmp_path / "me.crt").read_bytes(), (tmp_path / "me.key").read_bytes()
        api = Api(Access(server=server.url, ca=server.ca, certificate=certificate, key=key), "test/1")
        api.list_all("/api/v1/nodes")

    def test_without_one_the_server_hangs_up(self, certified: Access, server: Server) -> None:
        with pytest.raises(errors.Unreachable):
            Api(Access(server=server.url, ca=server.ca), "test/1").list_all("/api/v1/nodes")

    def test_a_renewed_certificate_makes_new_connections(self, certified: Access, server: Server, tmp_path: Path) -> None:
        clock = Clock()
        credentials = Credentials(certified, clock)
        before = credentials.current()
        self.issue(server, tmp_path)
        clock.now += 11
        assert credentials.current().tls is not before.tls

    def test_and_ends_the_old_ones(self, certified: Access, server: Server, tmp_path: Path) -> None:
        api = Api(certified, "test/1")
        api.list_all("/api/v1/nodes")
        self.issue(server, tmp_path)
        server.next("list", refused(401, "Unauthorized"))
        api.list_all("/api/v1/nodes")
        until(lambda: len(server._open) == 1, 10, "one connection is left", every=0.01)

    def test_a_certificate_that_is_none_is_named(self, certified: Access, tmp_path: Path) -> None:
        (tmp_path / "me.crt").write_text("no PEM")
        with pytest.raises(errors.ConfigError, match="can't be used"):
            Api(certified, "test/1")

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    def test_skipping_verification_is_possible_on_demand(self, server: Server) -> None:
        Api(Access(server=server.url, ca=trustme.CA().cert_pem.bytes(), insecure=True), "test/1").list_all("/api/v1/nodes")

    def test_the_server_may_be_known_by_another_name(self, server: Server) -> None:
        Api(Access(server=server.url, ca=server.ca, server_name="kubernetes.test"), "test/1").list_all("/api/v1/nodes")

    def test_and_must_then_bear_it(self, server: Server) -> None:
        api = Api(Access(server=server.url, ca=server.ca, server_name="other.test"), "test/1")
        with pytest.raises(errors.Unreachable, match=r"other\.test"):
            api.list_all("/api/v1/nodes")


class TestPlugins:
    @pytest.fixture
    def answer(self, tmp_path: Path) -> Path:
        """What the plugin prints."""
        path = tmp_path / "answer.json"
        self.grant(path, "first")
        return path

    def grant(self, answer: Path, token: str, seconds: int | None = 3600) -> None:
        status: dict[str, str] = {"token": token}
        if seconds is not None:
            status["expirationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        answer.write_text(json.dumps({"kind": "ExecCredential", "status": status}))

    def access(self, folder: Path, script: str, **more: Any) -> Access:
        plugin = folder / "plugin"
        plugin.write_text(f"#!/bin/sh\n{script}\n")
        plugin.chmod(0o700)
        given = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "args": None, **more}
        return from_file(kubeconfig(folder, {"server": "http://x"}, {"exec": given}))

    def test_the_token_it_prints_is_used(self, answer: Path, tmp_path: Path) -> None:
        credentials = Credentials(self.access(tmp_path, f"cat {answer}"))
        assert credentials.current().authorization == "Bearer first"

    def test_it_runs_again_before_its_token_expires(self, answer: Path, tmp_path: Path) -> None:
        clock = Clock()
        credentials = Credentials(self.access(tmp_path, f"cat {answer}"), clock)
        self.grant(answer, "second")
        clock.now += 3500
        assert credentials.current().authorization == "Bearer first"
        clock.now += 50
        assert credentials.current().authorization == "Bearer second"

    def test_it_runs_again_when_the_server_refuses(self, answer: Path, tmp_path: Path) -> None:
        credentials = Credentials(self.access(tmp_path, f"cat {answer}"))
        refused = credentials.current()
        self.grant(answer, "second")
        assert credentials.refused(refused).authorization == "Bearer second"
        self.grant(answer, "third")
        assert credentials.refused(refused).authorization == "Bearer second"

    def test_it_is_told_what_it_may_know(self, answer: Path, tmp_path: Path) -> None:
        script = f'printf %s "$KUBERNETES_EXEC_INFO $LEVEL" > {tmp_path}/told; cat {answer}'
        Credentials(self.access(tmp_path, script, provideClusterInfo=True, env=[{"name": "LEVEL", "value": "7"}]))
        info, _, level = (tmp_path / "told").read_text().rpartition(" ")
        assert (json.loads(info)["spec"]["cluster"]["server"], level) == ("http://x", "7")

    def test_its_failure_is_told_with_its_words(self, tmp_path: Path) -> None:
        with pytest.raises(errors.ConfigError, match="log in first"):
            Credentials(self.access(tmp_path, "echo log in first >&2; exit 3"))

    def test_its_answer_is_never_quoted(self, tmp_path: Path) -> None:
        with pytest.raises(errors.ConfigError) as caught:
            Credentials(self.access(tmp_path, "echo 'token: hush'"))
        assert "hush" not in repr(caught.value)
        assert caught.value.__cause__ is None

    def test_a_version_we_do_not_know_is_refused(self, answer: Path, tmp_path: Path) -> None:
        with pytest.raises(errors.ConfigError, match="v1alpha1 is not supported"):
            Credentials(self.access(tmp_path, f"cat {answer}", apiVersion="client.authentication.k8s.io/v1alpha1"))

    def test_no_file_is_left_open(self, answer: Path, tmp_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        Credentials(self.access(tmp_path, f"cat {answer}"))
        assert len(os.listdir("/proc/self/fd")) == before
