"""Identity, and what callers see while the cluster stalls or the controller ends. About 20 seconds: timeouts have to pass."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

import provisioner
from csi.pb import csi_pb2, csi_pb2_grpc
from tests.contract.driver import NAME, Driver, create_request, refused, running, unique
from tests.harness.ceph import Ceph
from tests.harness.waiting import until


def probe(driver: Driver) -> bool:
    return driver.identity.Probe(csi_pb2.ProbeRequest(), timeout=1).ready.value


def is_ready(driver: Driver) -> None:
    until(lambda: probe(driver), 60, "the driver is ready")


def test_the_plugin_tells_its_name_and_version(driver: Driver) -> None:
    info = driver.identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest(), timeout=5)
    assert (info.name, info.vendor_version) == (NAME, provisioner.__version__)


def test_it_is_ready_while_ceph_answers(driver: Driver) -> None:
    is_ready(driver)


def test_a_pool_that_is_gone_does_not_hide_that_others_answer(ceph: Ceph, tmp_path: Path) -> None:
    with running(ceph, tmp_path, ["no-such-pool", ceph.pool]) as driver:
        is_ready(driver)


def test_it_is_not_ready_where_no_pool_can_be_used(ceph: Ceph, tmp_path: Path) -> None:
    with running(ceph, tmp_path, ["no-such-pool"]) as driver:
        assert [probe(driver) for _ in range(3)] == [False] * 3


def test_it_says_within_a_second_that_ceph_does_not_answer_and_when_it_does_again(ceph: Ceph, tmp_path: Path) -> None:
    with running(ceph, tmp_path, timeout=3) as driver:
        is_ready(driver)
        with ceph.frozen_osd():
            # an answer may be two seconds old; every one comes within the second that `probe` waits
            until(lambda: not probe(driver), 4, "the driver is not ready")
        is_ready(driver)


def test_a_stall_is_answered_unavailable_in_time_and_costs_no_thread(ceph: Ceph, tmp_path: Path) -> None:
    with running(ceph, tmp_path, timeout=2) as driver:
        driver.create()
        with ceph.frozen_osd():
            with ThreadPoolExecutor(48) as pool:
                codes = list(pool.map(lambda _: stalled(driver), range(96)))
            threads = threading.active_count()
            stalled(driver)
            assert threading.active_count() <= threads
        assert set(codes) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        is_ready(driver)
        assert driver.create().volume_id


def stalled(driver: Driver) -> grpc.StatusCode:
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        driver.controller.CreateVolume(create_request(unique()), timeout=8)
    assert time.monotonic() - started < 10
    code: grpc.StatusCode = caught.value.code()
    return code


def test_capabilities_are_told_at_once_while_every_permit_is_taken(ceph: Ceph, tmp_path: Path) -> None:
    with running(ceph, tmp_path, timeout=2) as driver:
        driver.create()
        with ceph.frozen_osd(), ThreadPoolExecutor(40) as pool:
            waiting = [pool.submit(stalled, driver) for _ in range(40)]
            until(lambda: driver.server.admission.waiting() > 0, 60, "calls wait for a permit")
            request = csi_pb2.ControllerGetCapabilitiesRequest()
            assert driver.controller.ControllerGetCapabilities(request, timeout=1).capabilities
            assert not all(call.done() for call in waiting)


def test_calls_after_the_end_are_unavailable(ceph: Ceph, tmp_path: Path) -> None:
    with running(ceph, tmp_path) as driver:
        driver.create()
        driver.server.drain(5)
        with refused(grpc.StatusCode.UNAVAILABLE):
            driver.create()
        assert not driver.server.path.exists()


def test_what_is_not_of_this_process_is_not_served(driver: Driver) -> None:
    with grpc.insecure_channel(driver.endpoint) as channel, refused(grpc.StatusCode.UNIMPLEMENTED):
        csi_pb2_grpc.NodeStub(channel).NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=5)


def test_every_call_is_observed_with_its_code(driver: Driver) -> None:
    driver.create()
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        driver.delete("")
    until(lambda: driver.calls[-2:] == [("CreateVolume", "OK"), ("DeleteVolume", "INVALID_ARGUMENT")], 60, "both are told")
