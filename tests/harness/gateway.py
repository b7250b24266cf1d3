"""A real radosgw, with a user that may make users, and clients as the owners of buckets have them."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.harness.ceph import HACK, Ceph

_CAPS = "users=*;buckets=*;metadata=read"


@dataclass(frozen=True)
class RadosGateway:
    """One radosgw of hack/dev-ceph; `keys` is the file that the program is given."""

    ceph: Ceph
    url: str
    keys: Path

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    def client(self, secrets: Mapping[str, bytes]) -> Any:
        """An S3 client with a bucket's own keys. The bucket is in the path: nobody resolves its name here."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=secrets["AWS_ACCESS_KEY_ID"].decode(),
            aws_secret_access_key=secrets["AWS_SECRET_ACCESS_KEY"].decode(),
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )

    def tool(self, *words: str) -> Any:
        """Run radosgw-admin; gives what it prints, decoded."""
        command = ["radosgw-admin", "-c", self.ceph.conf, "-n", "client.rgw.x", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def users(self) -> list[str]:
        """Users of ours."""
        return [user for user in self.tool("metadata", "list", "user") if user.startswith("cp-bucket.")]

    def buckets(self) -> list[str]:
        return list(self.tool("bucket", "list"))


def start_gateway(ceph: Ceph, keys: Path) -> RadosGateway:
    command = [HACK / "dev-ceph", "start", str(ceph.directory), "--rgw"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    gateway = RadosGateway(ceph, json.loads(done.stdout.splitlines()[-1])["gateway"], keys)
    made = gateway.tool("user", "create", "--uid=provisioner", "--display-name=provisioner", f"--caps={_CAPS}")
    keys.write_text(json.dumps(made))
    keys.chmod(0o600)
    return gateway
