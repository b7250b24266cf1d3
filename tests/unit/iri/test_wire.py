"""IronCore's generated wire contract: up to date, and with the names that the poollets call. Three seconds: it is made anew."""

import subprocess
from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor

from provisioner.iri.pb.bucket.v1alpha1 import api_pb2 as bucket
from provisioner.iri.pb.volume.v1alpha1 import api_pb2 as volume
from provisioner.iri.serve import LIGHT, is_secret

ROOT = Path(__file__).parents[3]
CALLS = {
    "volume.v1alpha1.VolumeRuntime": (
        *("Version", "Status", "ListEvents", "ListVolumes", "CreateVolume", "ExpandVolume", "DeleteVolume"),
        *("CreateVolumeSnapshot", "DeleteVolumeSnapshot", "ListVolumeSnapshots"),
    ),
    "bucket.v1alpha1.BucketRuntime": (
        *("Version", "ListEvents", "ListBuckets", "CreateBucket", "DeleteBucket", "ListBucketClasses"),
    ),
}


def generated(root: Path) -> dict[Path, str]:
    made = root / "provisioner/iri/pb"
    return {path.relative_to(made): path.read_text() for path in made.rglob("*.py*") if "__pycache__" not in path.parts}


def test_what_is_committed_is_what_the_contract_gives(tmp_path: Path) -> None:
    subprocess.run([ROOT / "hack/generate", str(tmp_path)], check=True, timeout=60)
    assert generated(tmp_path) == generated(ROOT)


def test_the_calls_are_those_of_the_poollets() -> None:
    services = [service for file in (volume, bucket) for service in file.DESCRIPTOR.services_by_name.values()]
    assert {s.full_name: {method.name for method in s.methods} for s in services} == {
        name: set(calls) for name, calls in CALLS.items()
    }
    assert {f"/{name}/{call}" for name, calls in CALLS.items() for call in calls} >= LIGHT


def test_every_secret_is_hidden_from_logs() -> None:
    fields: list[FieldDescriptor] = [
        field
        for file in (volume, bucket)
        for message in file.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    ]
    hidden = {field.full_name for field in fields if is_secret(field)}
    assert hidden == {
        "volume.v1alpha1.EncryptionSpec.secret_data",
        "volume.v1alpha1.VolumeAccess.secret_data",
        "bucket.v1alpha1.BucketAccess.secret_data",
    }
