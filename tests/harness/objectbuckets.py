"""Whoever answers ObjectBucketClaims: a stand-in for Rook's operator. Not Rook, but the same contract, on a real radosgw.

Its order is the contract's: finalizer, bucket name in the spec, user and bucket, Secret and ConfigMap, ObjectBucket, Bound.
"""

import base64
import contextlib
import threading
from pathlib import Path

from provisioner.iri.obc import CLAIMS
from provisioner.kube.errors import AlreadyExists, KubeError, NotFound
from provisioner.kube.resources import CONFIG_MAPS, SECRETS, STORAGE_CLASSES, Object, Resource
from tests.harness.gateway import RadosGateway
from tests.harness.kubernetes import Kubernetes

CRDS = Path(__file__).with_name("objectbuckets.yaml")
OBJECT_BUCKETS = Resource("objectbucket.io", "v1alpha1", "objectbuckets", "ObjectBucket", namespaced=False)
FINALIZER = "objectbucket.io/finalizer"


class StandIn:
    """Answers the claims of the classes with its provisioner's name, in a thread, for the block."""

    def __init__(self, kubernetes: Kubernetes, gateway: RadosGateway, provisioner: str) -> None:
        self._api, self._gateway, self._provisioner = kubernetes.api, gateway, provisioner
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.paused = threading.Event()

    def __enter__(self) -> "StandIn":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            if self.paused.is_set():
                continue
            for claim in self._api.list_all(CLAIMS.path()).items:
                with contextlib.suppress(KubeError):  # it comes round again
                    self._answer(claim)

    def _answer(self, claim: Object) -> None:
        meta, phase = claim["metadata"], (claim.get("status") or {}).get("phase")
        storage_class = self._api.get(STORAGE_CLASSES.path(name=claim["spec"]["storageClassName"]))
        if storage_class["provisioner"] != self._provisioner:
            return
        if meta.get("deletionTimestamp"):
            self._take_away(claim)
        elif phase != "Bound":
            self._provide(claim)

    def _provide(self, claim: Object) -> None:
        meta, path = claim["metadata"], CLAIMS.path(claim["metadata"]["namespace"], claim["metadata"]["name"])
        name = claim["spec"].get("bucketName") or f"{claim['spec']['generateBucketName']}-{meta['uid']}"
        self._api.patch(path, {"metadata": {"finalizers": [FINALIZER]}, "spec": {"bucketName": name}})
        user = f"obc-{meta['uid']}"
        made = self._gateway.tool("user", "create", f"--uid={user}", f"--display-name={name}", "--max-buckets=1")
        keys = {"AWS_ACCESS_KEY_ID": made["keys"][0]["access_key"], "AWS_SECRET_ACCESS_KEY": made["keys"][0]["secret_key"]}
        secrets = {key: value.encode() for key, value in keys.items()}
        s3 = self._gateway.client(secrets)
        with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
            s3.create_bucket(Bucket=name)
        host, _, port = self._gateway.host.partition(":")
        owner = [{"apiVersion": CLAIMS.api_version, "kind": CLAIMS.kind, "name": meta["name"], "uid": meta["uid"]}]
        metadata = {"name": meta["name"], "ownerReferences": owner, "finalizers": [FINALIZER]}
        data = {key: base64.b64encode(value).decode() for key, value in secrets.items()}
        told = {"BUCKET_NAME": name, "BUCKET_HOST": host, "BUCKET_PORT": port, "BUCKET_REGION": "", "BUCKET_SUBREGION": ""}
        bucket = f"obc-{meta['namespace']}-{meta['name']}"
        for resource, body in (
            (SECRETS, SECRETS.body(metadata, data=data)),
            (CONFIG_MAPS, CONFIG_MAPS.body(metadata, data=told)),
            (OBJECT_BUCKETS, OBJECT_BUCKETS.body({"name": bucket}, spec={"additionalState": {"cephUser": user}})),
        ):
            with contextlib.suppress(AlreadyExists):
                self._api.create(resource.path(meta["namespace"] if resource.namespaced else ""), body)
        self._api.patch(path, {"spec": {"objectBucketName": bucket}})
        self._api.patch(f"{path}/status", {"status": {"phase": "Bound"}})

    def _take_away(self, claim: Object) -> None:
        meta, name = claim["metadata"], claim["spec"].get("bucketName", "")
        if name in self._gateway.buckets():
            self._gateway.tool("bucket", "rm", f"--bucket={name}", "--purge-objects", "--format=json")
        if f"obc-{meta['uid']}" in self._gateway.tool("metadata", "list", "user"):
            self._gateway.tool("user", "rm", f"--uid=obc-{meta['uid']}")
        with contextlib.suppress(NotFound):
            self._api.delete(OBJECT_BUCKETS.path(name=f"obc-{meta['namespace']}-{meta['name']}"))
        for resource in (SECRETS, CONFIG_MAPS, CLAIMS):
            with contextlib.suppress(NotFound):
                self._api.patch(resource.path(meta["namespace"], meta["name"]), {"metadata": {"finalizers": None}})
