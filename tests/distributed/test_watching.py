"""The table, the watchdog and the sweeping of leftovers, without MPI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyjpllm.distributed import leftovers, progress, watchdog
from pyjpllm.distributed.progress import FAILED, LEAVING, RUNNING, Table, group_key

HERE = progress.pid_namespace()


class Node:
    """As much of an MPI communicator as the table needs, for two ranks in one process."""

    def __init__(self, rank: int, box: dict[str, str]) -> None:
        self._rank, self._box = rank, box

    def Get_rank(self) -> int:
        return self._rank

    def Get_size(self) -> int:
        return 2

    def bcast(self, value, root):
        return self._box.setdefault("path", value)

    def allreduce(self, value):
        return 2 * value

    def Barrier(self) -> None:
        pass


@pytest.fixture
def tables(monkeypatch):
    """Two ranks' views of one table; the file is opened by both before its name goes."""
    box: dict[str, str] = {}
    removed = []
    with monkeypatch.context() as patch:
        patch.setattr(progress.os, "unlink", removed.append)
        first = Table.shared(Node(0, box), 0)
        second = Table.shared(Node(1, box), 1)
    assert removed == [box["path"]]
    os.unlink(box["path"])
    return first, second


def test_ranks_see_each_other(tables):
    first, second = tables
    key = group_key("g")
    assert [r.rank for r in first.records()] == [0, 1]
    assert {r.state for r in first.records()} == {RUNNING}
    assert first.standing(1, key) is None
    second.enqueued(key, 4, "allreduce")
    assert first.standing(1, key) == progress.Standing(4, 0, "allreduce")
    assert first.last_label(1) == "allreduce #4"
    second.ended(key, 4)
    assert first.standing(1, key).ended == 4
    assert first.last_label(1) == ""
    second.set_state(LEAVING)
    assert first.records()[1].state == LEAVING


def test_groups_beyond_the_table_are_left_out(tables):
    first, second = tables
    for i in range(progress.SLOTS + 5):
        first.enqueued(1000 + i, 1, "x" * 60)
        first.ended(1000 + i, 1)
    assert second.standing(0, 1000 + progress.SLOTS - 1).label == "x" * 48
    assert second.standing(0, 1000 + progress.SLOTS) is None
    assert second.last_label(0) == ""


def test_ranks_in_containers_of_their_own_have_tables_of_their_own(monkeypatch):
    monkeypatch.setattr(progress, "_map", lambda path, size: None)
    table = Table.shared(Node(0, {}), 3)
    assert [(record.rank, table.count) for record in table.records()] == [(3, 1)]
    table.enqueued(group_key("g"), 1, "allreduce")
    assert table.last_label(0) == "allreduce #1"


def test_a_process_of_another_namespace_is_not_called_dead():
    assert progress.process_state(progress.Record(2**22 + 1, 1, RUNNING, 5, HERE + 1)) == "out of sight"
    assert progress.process_state(progress.Record(2**22 + 1, 1, RUNNING, 0, HERE)) == "out of sight"
    assert progress._map("/nonexistent/table", 10) is None


def test_states_of_processes():
    own = progress.Record(os.getpid(), 0, RUNNING, progress.process_start_time(os.getpid()), HERE)
    assert progress.process_state(own) == "alive"
    assert (
        progress.process_state(progress.Record(own.pid, 0, RUNNING, own.start_time + 1, HERE)) == "gone"
    )  # the id reused
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        record = progress.Record(child.pid, 1, RUNNING, progress.process_start_time(child.pid), HERE)
        os.kill(child.pid, 19)
        deadline = time.monotonic() + 10
        while progress.process_state(record) != "stopped" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert progress.process_state(record) == "stopped"
        child.kill()
        child.wait()
    assert progress.process_state(record) == "gone"
    assert progress.process_start_time(child.pid) == 0


@pytest.fixture
def dog(tables, monkeypatch):
    """A watchdog of rank 0 whose thread is stopped, and the list of what it would have said."""
    said = []
    watcher = watchdog.Watchdog(0, tables[0], {}, lambda: said.append("store forgotten"))
    watcher.stop()
    return watcher, tables[1], said


def operation(sequence=2, ranks=(0, 1, 7), late=True, lane="a lane", age=100.0):
    now = time.monotonic()
    group = SimpleNamespace(ranks=list(ranks), key=group_key("g"), group_name="g")
    return SimpleNamespace(
        group=group, sequence=sequence, lane=lane, started=now - age, deadline=now + (-1 if late else 100),
        describe=lambda: "allreduce(float32[3])",
    )  # fmt: skip


def test_a_late_operation_is_named_with_the_ranks(dog):
    watcher, second, _ = dog
    watcher._table.enqueued(group_key("g"), 2, "allreduce")
    second.enqueued(group_key("g"), 1, "broadcast")
    watcher._pending[1] = operation()
    code, message = watcher._deadline()
    assert code == watchdog.STALLED
    assert re.fullmatch(
        r"allreduce\(float32\[3\]\) #2 of group 'g' \(ranks 0-1, 7\) is not done after \d+ s: waiting: 0; "
        r"missing: rank 1 \(pid \d+, alive, at #1 of this group, in broadcast #1\); "
        r"on other nodes, see their lines: 7",
        message,
    )
    assert watcher._period() <= 0.01
    watcher._pending[1] = operation(lane=None)
    assert "missing" not in watcher._deadline()[1]
    watcher._pending[1] = operation(late=False)
    assert watcher._deadline() is None
    watcher._pending[1] = SimpleNamespace(**{**vars(operation()), "group": None})
    assert watcher._deadline()[1].startswith("allreduce(float32[3]) is not done")


def test_a_rank_that_has_left_or_failed_is_noticed(dog):
    watcher, second, _ = dog
    assert watcher._lost_rank() is None
    assert watcher._left_rank() is None
    second.set_state(LEAVING)
    watcher._pending[1] = operation(late=False, age=1.0)
    assert watcher._left_rank() is None  # not at once
    watcher._pending[1] = operation(late=False)
    assert watcher._left_rank()[1].endswith("cannot end: rank 1 has left the job without taking part")
    second.enqueued(group_key("g"), 2, "allreduce")
    assert watcher._left_rank() is None  # it is in it
    assert watcher._lost_rank() is None
    second.set_state(FAILED)
    assert re.fullmatch(r"rank 1 \(pid \d+\) has failed; ending this job", watcher._lost_rank()[1])
    second.set_state(RUNNING)
    progress._HEADER.pack_into(second._memory, progress.RECORD, 2**22 + 1, 1, RUNNING, 5, HERE)
    assert re.fullmatch(r"rank 1 \(pid \d+\) has died; ending this job", watcher._lost_rank()[1])


def test_a_dead_launcher_is_noticed(dog):
    watcher, _, _ = dog
    assert watcher._lost_launcher() is None
    watcher._launcher = -1
    assert watcher._lost_launcher()[1] == "the launcher (pid -1) is gone; ending this rank"


def test_ending_says_one_line_and_leaves(dog, monkeypatch):
    watcher, second, said = dog
    codes = []
    written = []
    monkeypatch.setattr(watchdog.os, "_exit", codes.append)
    monkeypatch.setattr(watchdog.os, "write", lambda fd, data: written.append((fd, data)))
    monkeypatch.setattr(watchdog.leftovers, "remove_own", lambda: said.append("segments removed"))
    watcher.end(7, "over")
    assert (codes, written, said) == ([7], [(2, b"[rank 0] pyjpllm: over\n")], ["store forgotten"])
    watcher._launcher = -1
    watcher.end(7, "over")
    assert said == ["store forgotten", "segments removed", "store forgotten"]
    assert second.records()[0].state == progress.ENDING


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([], "none"), ([3], "3"), ([0, 1, 2], "0-2"), ([5, 0, 1, 3], "0-1, 3, 5")],
)
def test_ranges(ranks, text):
    assert watchdog._ranges(ranks) == text


def test_sweep_removes_only_dead_segments_of_ours(tmp_path):
    host, uid = os.uname().nodename.split(".")[0], os.getuid()
    names = {
        "dead": f"sm_segment.{host}.{uid}.ab12.0",
        "old": f"vader_segment.{host}.{uid}.ab12.1",
        "mapped": f"sm_segment.{host}.{uid}.cd34.0",
        "young": f"sm_segment.{host}.{uid}.ef56.0",
        "elsewhere": f"sm_segment.not{host}.{uid}.ab12.0",
        "somebody's": f"sm_segment.{host}.{uid + 1}.ab12.0",
        "other": "psm_something",
    }
    for what, name in names.items():
        path = tmp_path / name
        path.write_bytes(b"\0" * 4096)
        if what != "young":
            os.utime(path, (1, 1))
    code = (
        "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0)\n"
        "print(1, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / names["mapped"])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        removed = leftovers.sweep(tmp_path)
        child.stdin.close()
    assert {path.name for path in removed} == {names["dead"], names["old"]}
    assert not (tmp_path / names["dead"]).exists()
    assert (tmp_path / names["mapped"]).exists()
    assert leftovers.sweep(tmp_path / "absent") == []


def test_remove_own_takes_the_session_folder(tmp_path, monkeypatch):
    session = tmp_path / "ompi.123"
    (session / "0").mkdir(parents=True)
    monkeypatch.setenv("PMIX_SERVER_TMPDIR", str(session))
    leftovers.remove_own()
    assert not session.exists()
    monkeypatch.setenv("PMIX_SERVER_TMPDIR", str(tmp_path))  # not a name of Open MPI's: not ours to remove
    leftovers.remove_own()
    assert Path(tmp_path).exists()
