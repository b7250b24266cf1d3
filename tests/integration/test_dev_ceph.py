"""hack/dev-ceph brings up a real Ceph for anybody who may write to a directory, and takes all of it down again. About 60 s."""

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import rados
import rbd
import urllib3

TOOL = Path(__file__).resolve().parents[2] / "hack" / "dev-ceph"
NOBODY: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
SIZE = 8 << 20
TOLD = ["conf", "keyring", "user", "pool", "fsid", "monitors"]
DAEMONS = ["mon.a", "mgr.x", "osd.0"]


def tool(*words: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TOOL, *words], capture_output=True, text=True, timeout=120, **how)


def start(home: Path, *words: str, **how: Any) -> dict[str, Any]:
    """Start a cluster; what its last line says."""
    done = tool("start", home, *words, **how)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def pids(home: Path) -> dict[str, int | None]:
    """Pid by daemon, None for one that does not run, as `status` says it."""
    lines = (line.partition(": ") for line in tool("status", home).stdout.splitlines())
    return {name: int(words.split()[1].rstrip(",")) if words.startswith("pid ") else None for name, _, words in lines}


def commands_in(home: Path) -> list[str]:
    """The command of every process that works in the directory, whatever the tool thinks of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")).is_relative_to(home):
                found.append((process / "cmdline").read_text().split("\0")[0])
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return sorted(found)


@contextmanager
def pool(told: dict[str, Any], name: str = "") -> Iterator[rados.Ioctx]:
    """A pool, opened with nothing but what the JSON tells."""
    limits = {"client_mount_timeout": "10", "rados_osd_op_timeout": "20"}
    handle = rados.Rados(conffile=told["conf"], name=f"client.{told['user']}", conf={"keyring": told["keyring"]} | limits)
    handle.connect()
    try:
        with handle.open_ioctx(name or told["pool"]) as context:
            yield context
    finally:
        handle.shutdown()


def write(told: dict[str, Any], name: str) -> None:
    with pool(told) as context:
        rbd.RBD().create(context, name, SIZE, old_format=False)
        with rbd.Image(context, name) as image:
            image.write(name.encode(), 0)


def read(told: dict[str, Any], name: str) -> str:
    with pool(told) as context, rbd.Image(context, name, read_only=True) as image:
        return str(image.read(0, len(name)).decode())


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory to be, below one that `nobody` may write to."""
    with tempfile.TemporaryDirectory(prefix="dev-ceph.", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o777)
        yield Path(directory) / "c"
        for made in Path(directory).iterdir():
            tool("stop", made)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A cluster with two pools that tests may look at, but not stop."""
    path = tmp_path_factory.mktemp("dev-ceph") / "c"
    yield path, start(path, "--pool", "first", "--pool", "second")
    tool("stop", path, "--purge")


@pytest.fixture(scope="module")
def worn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a cluster that tests may stop and kill: each begins with a start, whatever the last one left."""
    path = tmp_path_factory.mktemp("worn") / "c"
    yield path
    tool("stop", path, "--purge")


def test_two_clusters_run_side_by_side_for_nobody(home: Path) -> None:
    homes = [home, home.with_name("d")]
    with ThreadPoolExecutor() as both:
        told = list(both.map(lambda path: start(path, **NOBODY), homes))
    for one in told:
        write(one, f"image-of-{one['fsid']}")
    with pool(told[0]) as context:
        found = rbd.RBD().list(context)
    assert found == [f"image-of-{told[0]['fsid']}"]


def test_each_daemon_runs_once(running: tuple[Path, dict[str, Any]]) -> None:
    assert commands_in(running[0]) == ["ceph-mgr", "ceph-mon", "ceph-osd"]


def test_the_last_line_tells_what_a_client_needs(running: tuple[Path, dict[str, Any]]) -> None:
    _, told = running
    assert (list(told), told["user"], told["pool"]) == (TOLD, "provisioner", "first")


def test_every_pool_asked_for_is_usable(running: tuple[Path, dict[str, Any]]) -> None:
    with pool(running[1], "second") as context:
        assert rbd.RBD().list(context) == []


def test_the_monitors_told_are_enough_with_a_key(running: tuple[Path, dict[str, Any]]) -> None:
    _, told = running
    limits = {"client_mount_timeout": "10", "keyring": told["keyring"], "mon_host": ",".join(told["monitors"])}
    handle = rados.Rados(name="client.provisioner", conf=limits)
    handle.connect()
    found = handle.get_fsid()
    handle.shutdown()
    assert found == told["fsid"]


def test_capacity_is_known_when_start_returns(running: tuple[Path, dict[str, Any]]) -> None:
    with pool(running[1]) as context:
        assert context.get_stats() is not None
    done = subprocess.run(["ceph", "-c", running[1]["conf"], "df", "-f", "json"], capture_output=True, check=True)
    assert all(entry["stats"]["max_avail"] > 0 for entry in json.loads(done.stdout)["pools"])


def test_a_keyring_is_for_its_owner_only(running: tuple[Path, dict[str, Any]]) -> None:
    home, _ = running
    modes = {path.stat().st_mode & 0o777 for path in home.rglob("*keyring*")}
    assert modes == {0o600}


def test_nothing_listens_beyond_loopback(running: tuple[Path, dict[str, Any]]) -> None:
    sockets = set()
    for pid in pids(running[0]).values():
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            sockets.add(os.readlink(descriptor).removeprefix("socket:[").rstrip("]"))
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    listening = {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets}
    assert listening == {socket.inet_aton("127.0.0.1")[::-1].hex().upper()}


def test_no_secret_stands_on_a_command_line(running: tuple[Path, dict[str, Any]]) -> None:
    home, _ = running
    keys = [line.split(" = ")[1] for path in home.rglob("*keyring*") for line in path.read_text().splitlines() if "key =" in line]
    lines = "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids(home).values())
    assert keys
    assert not [key for key in keys if key in lines]


def test_start_on_a_running_cluster_changes_nothing(running: tuple[Path, dict[str, Any]]) -> None:
    home, told = running
    before = pids(home)
    assert (start(home), pids(home)) == (told, before)


def test_a_later_start_adds_a_pool(worn: Path) -> None:
    start(worn)
    told = start(worn, "--pool", "more")
    with pool(told, "more") as context:
        rbd.RBD().create(context, "image", SIZE, old_format=False)
        assert rbd.RBD().list(context) == ["image"]


def test_stop_leaves_no_process(worn: Path) -> None:
    start(worn)
    tool("stop", worn)
    assert commands_in(worn) == []


def test_a_stopped_cluster_comes_back_with_its_data(worn: Path) -> None:
    write(start(worn), "kept")
    tool("stop", worn)
    assert read(start(worn), "kept") == "kept"


@pytest.mark.parametrize("killed", [*((daemon,) for daemon in DAEMONS), tuple(DAEMONS)], ids=" ".join)
def test_start_brings_back_what_was_killed(worn: Path, killed: tuple[str, ...]) -> None:
    text = "kept-" + "-".join(killed)
    write(start(worn), text)
    for daemon in killed:
        os.kill(pids(worn)[daemon] or 0, signal.SIGKILL)
    assert read(start(worn), text) == text


def test_restart_daemon_replaces_that_one(worn: Path) -> None:
    start(worn)
    before = pids(worn)
    tool("restart-daemon", worn, "osd.0")
    after = pids(worn)
    assert [name for name in DAEMONS if before[name] != after[name]] == ["osd.0"]


@pytest.mark.parametrize("line", ["mon.a started", "monitor answers", "osd.0 started"])
def test_a_start_that_was_killed_can_be_repeated(home: Path, line: str) -> None:
    with subprocess.Popen([TOOL, "start", home], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as first:
        assert first.stderr
        assert any(said.strip() == line for said in first.stderr)
        first.kill()
    write(start(home), "image")
    assert commands_in(home) == ["ceph-mgr", "ceph-mon", "ceph-osd"]


def test_a_first_start_that_is_told_to_end_leaves_no_process(home: Path) -> None:
    with subprocess.Popen([TOOL, "start", home], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as first:
        assert first.stderr
        assert any(said.strip() == "monitor answers" for said in first.stderr)
        first.terminate()
    assert commands_in(home) == []


def test_the_gateway_answers(worn: Path) -> None:
    told = start(worn, "--rgw")
    assert b"ListAllMyBucketsResult" in urllib3.request("GET", told["gateway"], timeout=10, retries=False).data


def test_purge_removes_the_directory(home: Path) -> None:
    start(home)
    tool("stop", home, "--purge")
    assert not home.exists()


@pytest.mark.parametrize("words", [("start",), ("stop", "--purge")])
def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "thesis").write_text("years of work")
    done = tool(*words, tmp_path)
    assert (done.returncode, [path.name for path in tmp_path.iterdir()]) == (1, ["thesis"])


def test_a_pid_that_came_to_name_another_process_is_left_alone(worn: Path) -> None:
    start(worn)
    tool("stop", worn)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        stat = Path(f"/proc/{stranger.pid}/stat").read_text().split()
        earlier = [*stat[:21], str(int(stat[21]) - 1), *stat[22:]]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        (worn / "osd.0.pid").write_text(boot + " ".join(earlier) + "\n")
        tool("stop", worn)
        lives = stranger.poll() is None
        stranger.kill()
    assert lives


def test_what_is_not_installed_is_named() -> None:
    done = tool("start", "/nonexistent", env={"PATH": "/nonexistent"})
    assert (done.returncode, "ceph-mon" in done.stderr) == (1, True)


def test_a_size_is_decided_once(running: tuple[Path, dict[str, Any]]) -> None:
    done = tool("start", running[0], "--size", "20G")
    assert (done.returncode, "another size" in done.stderr) == (1, True)
