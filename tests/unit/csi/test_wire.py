"""The generated wire contract: up to date, and with its secrets marked. Two seconds: it is generated anew."""

import subprocess
from pathlib import Path

from csi.pb import csi_pb2
from csi.policy import LIGHT, is_secret

ROOT = Path(__file__).parents[3]


def test_what_is_committed_is_what_the_contract_gives(tmp_path: Path) -> None:
    subprocess.run([ROOT / "hack/generate", str(tmp_path)], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "csi/pb").iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / "csi/pb").iterdir() if path.is_file()}
    assert made == kept


def test_every_field_of_secrets_is_marked() -> None:
    fields = [field for message in csi_pb2.DESCRIPTOR.message_types_by_name.values() for field in message.fields]
    named = [field.full_name for field in fields if field.name == "secrets"]
    assert len(named) == 22
    assert named == [field.full_name for field in fields if is_secret(field)]


def test_the_names_on_the_wire_are_the_specs() -> None:
    services = csi_pb2.DESCRIPTOR.services_by_name.values()
    assert {service.full_name for service in services} == {
        f"csi.v1.{name}" for name in ("Identity", "Controller", "GroupController", "SnapshotMetadata", "Node")
    }


def test_the_light_calls_are_calls_of_the_contract() -> None:
    services = csi_pb2.DESCRIPTOR.services_by_name.values()
    assert {
        f"/{method.containing_service.full_name}/{method.name}" for service in services for method in service.methods
    } >= LIGHT
