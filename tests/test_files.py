"""files.py: atomic writes, and what killed processes leave behind."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from calling import holding

from stackmff import files
from stackmff.errors import StackError
from stackmff.processes import this_process

HOUSE = Path(__file__).parents[1]


def test_natural_order():
    names = ["frame10", "Frame2", "frame2", "frame02", "a1b10", "a1b9", "2", "10"]
    ordered = sorted(names, key=files.natural_key)
    assert ordered == ["2", "10", "a1b9", "a1b10", "Frame2", "frame02", "frame2", "frame10"]
    assert sorted(names[::-1], key=files.natural_key) == ordered


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_nothing_after_the_next_start(tmp_path, number):
    target = tmp_path / "picture.png"
    code = (
        "import sys, time\n"
        "from stackmff.files import atomic_path\n"
        "from stackmff.processes import run_main\n"
        "def main():\n"
        "    with atomic_path(sys.argv[1]) as path:\n"
        "        path.write_text('half')\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(600)\n"
        "run_main(main)"
    )
    words = [sys.executable, "-c", code, str(target)]
    with subprocess.Popen(words, cwd=HOUSE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        # While it lives, another process that writes the same file keeps its temporary file.
        files.write_text(target, "old")
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(number)
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == (2 if number == signal.SIGKILL else 1)
    files.remove_leftovers.cache_clear()  # as in a new process
    files.write_text(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert target.read_text() == "new"


def test_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def synced(handle):
        status = os.fstat(handle)
        events.append("folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")
        fsync(handle)

    def replaced(*paths):
        events.append("name")
        replace(*paths)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "replace", replaced)
    files.write_text(tmp_path / "a.txt", "words")
    assert events == ["5 bytes", "name", "folder"]


def test_a_lock_keeps_others_out_and_dies_with_its_process(tmp_path):
    folder = tmp_path / "new" / "run"
    with holding(folder) as other:
        with pytest.raises(StackError) as caught, files.locked(folder, "wait"):
            pass
        assert str(caught.value).startswith(f"{folder} is in use by process {other.pid} on ")
        assert str(caught.value).endswith(": wait")
    with files.locked(folder, "wait"), files.locked(tmp_path / "other", "wait"):
        assert f"process {os.getpid()} " in (folder / ".lock").read_text()


def test_a_disk_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a.txt", "old")
    for number, fails in ((errno.EIO, True), (errno.EINVAL, False)):

        def fsync(_, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(files.os, "fsync", fsync)
        if fails:
            with pytest.raises(StackError, match=r"a\.txt cannot be written"):
                files.write_text(tmp_path / "a.txt", "new")
        else:  # a file system that has no fsync
            files.write_text(tmp_path / "a.txt", "new")
        assert (tmp_path / "a.txt").read_text() == ("old" if fails else "new")
        assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_second_name_stays_when_the_file_is_written_anew(tmp_path, monkeypatch, has_links):
    def link(*_):
        raise OSError(errno.EPERM, "no hard links")

    if not has_links:
        monkeypatch.setattr(files.os, "link", link)
    one, other = tmp_path / "one", tmp_path / "other"
    for text in ("first", "second"):
        files.write_text(one, text)
        files.keep_as(one, other)
        files.write_text(one, "changed")
        assert other.read_text() == text and one.read_text() == "changed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


@pytest.mark.parametrize("text", ["[" * 100_000, b"[" * 100_000, '{"a":' * 100_000, "{", b"\xff"])
def test_json_that_cannot_be_parsed_is_a_value_error(text):
    with pytest.raises(ValueError):
        files.parse_json(text)


def test_leftovers_are_told_from_files_in_use_by_their_lock(tmp_path):
    """Not by the number of the process, which is 1 in each container."""
    own = this_process()
    host = own.rpartition("-")[0]
    used, left = tmp_path / f".a.stackmff-{own}.x.png", tmp_path / f".b.stackmff-{host}-1.y.png"
    elsewhere, old = (tmp_path / f".c.stackmff-other-7.{end}.png" for end in "zw")
    unmarked, hidden = tmp_path / f".d.{host}-999999999.v.png", tmp_path / ".e.other-7.u.png"
    for path in (used, left, elsewhere, old, unmarked, hidden):
        path.touch()
    os.utime(old, (1e9, 1e9))
    with open(used, "rb") as file:
        files.claim(file.fileno())
        files.remove_leftovers.cache_clear()
        files.remove_leftovers(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([used, elsewhere, hidden])
    files.remove_leftovers.cache_clear()
    files.remove_leftovers(tmp_path)
    assert not used.exists()


def test_a_file_that_is_removed_before_it_is_claimed_is_made_again(tmp_path, monkeypatch):
    claim, removed = files.claim, []

    def too_late(handle):
        if not removed:
            removed.append(next(tmp_path.iterdir()))
            removed[0].unlink()
        return claim(handle)

    monkeypatch.setattr(files, "claim", too_late)
    files.write_text(tmp_path / "a.txt", "words")
    assert removed and (tmp_path / "a.txt").read_text() == "words"
