"""Native or csi: what the nodes' kubelets can mount."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.claims.nodes import choose
from provisioner.core.errors import Unsupported

OLD = ["v1.30.14", "v1.28.2-gke.100", "v1.9.0"]
NEW = ["v1.31.0", "v1.36.3+k3s1", "v2.0.0"]
versions = st.lists(st.sampled_from([*OLD, *NEW, ""]), max_size=6)


class TestNative:
    def test_is_made_where_every_kubelet_has_the_plugin(self) -> None:
        choice = choose("native", OLD)
        assert (choice.native, choice.warning) == (True, "")

    def test_is_refused_where_no_kubelet_has_the_plugin_with_what_to_do(self) -> None:
        with pytest.raises(Unsupported, match=r"oldest is v1\.31\.0 .* set pvType: csi"):
            choose("native", NEW)

    def test_is_made_with_a_warning_where_some_kubelets_lack_the_plugin(self) -> None:
        choice = choose("native", ["v1.30.14", *NEW])
        assert choice.native
        assert "3 of 4 nodes" in choice.warning

    @pytest.mark.parametrize("nodes", [[], ["", ""]])
    def test_is_made_with_a_warning_where_no_version_is_known_yet(self, nodes: list[str]) -> None:
        choice = choose("native", nodes)
        assert choice.native
        assert "no node" in choice.warning


class TestAuto:
    def test_is_native_where_every_kubelet_has_the_plugin(self) -> None:
        assert choose("auto", OLD).native

    @pytest.mark.parametrize("nodes", [[], [""], NEW, [*OLD, *NEW]])
    def test_is_csi_where_some_kubelet_lacks_the_plugin_or_none_is_known(self, nodes: list[str]) -> None:
        assert not choose("auto", nodes).native

    @given(versions)
    def test_never_makes_what_some_node_cannot_mount(self, nodes: list[str]) -> None:
        if choose("auto", nodes).native:
            assert not set(nodes) & set(NEW)


@given(versions)
def test_csi_is_csi_whatever_the_nodes_are(nodes: list[str]) -> None:
    assert not choose("csi", nodes).native


@given(versions)
def test_a_node_that_has_not_told_its_version_changes_nothing(nodes: list[str]) -> None:
    assert choose("auto", nodes) == choose("auto", [version for version in nodes if version])
