"""The class files: ceph-provider's lists are read as they are, and what can't be honoured is named. No seconds."""

import json
from pathlib import Path

import pytest

from provisioner.core.errors import InvalidRequest
from provisioner.iri.classes import ClassFile, read_volume_classes


def test_a_list_of_ceph_provider_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "classes.yaml"
    file.write_text("- name: fast\n  capabilities:\n    tps: 262144000\n    iops: 15000\n")
    (fast,) = read_volume_classes(file).values()
    assert (fast.name, fast.capabilities.tps, fast.capabilities.iops, fast.user) == ("fast", 262144000, 15000, None)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"name": "fast"}, "array"),
        ([{"capabilities": {}}], "name"),
        ([{"name": "a"}, {"name": "a"}], "name of its own"),
        ([{"name": ""}], "name of its own"),
        ([{"name": "a", "capabilities": {"tps": "100Mi"}}], "int"),
        ([{"name": "a", "capabilities": {"tps": -1}}], "a.capabilities.tps"),
        ([{"name": "a", "capabilities": {"iops": 1 << 63}}], "a.capabilities.iops"),
        ([{"name": "a", "parameters": {"pool": "b"}}], "a.parameters.pool"),
        ([{"name": "a", "parameters": {"objectSize": "3"}}], "a.objectSize"),
        ([{"name": "a", "colour": "red"}], "colour"),
        ([{"name": "a", "user": {"userID": "b"}}], "keyFile"),
    ],
)
def test_what_cannot_be_honoured_is_named(tmp_path: Path, classes: object, words: str) -> None:
    file = tmp_path / "classes.json"
    file.write_text(json.dumps(classes))
    with pytest.raises(InvalidRequest, match=words.replace("[", "\\[")):
        read_volume_classes(file)


def test_a_file_that_is_not_there_is_told_with_the_option(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"--volume-classes .*No such file"):
        ClassFile(tmp_path / "none", read_volume_classes)


def test_a_file_that_vanishes_leaves_the_last_good_classes(tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text('[{"name": "a"}]')
    classes = ClassFile(file, read_volume_classes)
    file.unlink()
    assert list(classes.all()) == ["a"]
