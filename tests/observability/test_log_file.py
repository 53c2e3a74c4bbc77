"""Where log lines go must never stop or fail the data path, and no line may vanish unnoticed."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.logger import ILogObserver, globalLogPublisher

from apigw.observability.log_file import MAX_PENDING, PIPE_PIECE, LogFile

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the log for people says meanwhile."""
    lines: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(cast("ILogObserver", observe))
    yield lines
    globalLogPublisher.removeObserver(cast("ILogObserver", observe))


def test_lines_are_appended_and_strangers_may_not_read_them(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    for text in (b"one\n", b"two\n"):
        file = LogFile(str(path))
        file.write(bytearray(text))
        file.close()
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_a_file_that_can_not_be_opened_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LogFile(str(tmp_path / "missing" / "a.log"))


def test_a_slow_reader_of_a_pipe_delays_nobody_and_gets_all(told: list[str]) -> None:
    reader, writer = os.pipe()
    file = LogFile(writer)
    lines = 40_000  # more than any pipe holds
    for _ in range(lines // 100):
        file.write(bytearray(LINE * 100))
    os.set_blocking(reader, False)
    got = bytearray()
    while len(got) < lines * len(LINE):
        got += os.read(reader, 1 << 20)
        file.push()
    assert bytes(got) == LINE * lines
    assert (file.lost, told) == (0, [])
    assert os.get_blocking(writer), "the pipe is shared with others, who did not ask for O_NONBLOCK"
    for fd in (reader, writer):
        os.close(fd)
    file.close()


def test_workers_that_share_a_pipe_never_mix_their_lines() -> None:
    reader, writer = os.pipe()
    files = [LogFile(writer), LogFile(writer)]
    for file, letter in zip(files, (b"a", b"b"), strict=True):
        file.write(bytearray((letter * 300 + b"\n") * 5000))
    os.close(writer)
    os.set_blocking(reader, False)
    got = bytearray()
    while any(file._pending for file in files) or len(got) < 2 * 5000 * 301:
        try:
            got += os.read(reader, PIPE_PIECE)
        except BlockingIOError:
            pass
        for file in files:
            file.push()
    assert {bytes(line) for line in got.splitlines()} == {b"a" * 300, b"b" * 300}
    os.close(reader)


def test_a_pipe_that_can_not_be_opened_again_is_asked_before_each_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by root before privileges were dropped, or without /proc."""
    reader, writer = os.pipe()

    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        file = LogFile(writer)
    file.write(bytearray(LINE * 5000))
    got = bytearray()
    while len(got) < 5000 * len(LINE):
        got += os.read(reader, 1 << 16)
        file.push()
    assert bytes(got) == LINE * 5000
    for fd in (reader, writer):
        os.close(fd)


def test_a_socket_as_journald_gives_it_is_written_without_waiting() -> None:
    ours, theirs = socket.socketpair()
    file = LogFile(ours.fileno())
    file.write(bytearray(LINE * 20_000))
    got = bytearray()
    while len(got) < 20_000 * len(LINE):
        got += theirs.recv(1 << 16)
        file.push()
    assert bytes(got) == LINE * 20_000
    file.close()
    ours.close()
    theirs.close()


def test_what_nobody_reads_is_bounded_and_counted() -> None:
    reader, writer = os.pipe()
    file = LogFile(writer)
    for _ in range(100):
        file.write(bytearray(LINE * 1000))
    assert len(file._pending) <= MAX_PENDING
    assert file.lost > 0
    waiting = len(file._pending) // len(LINE)
    file.close(patience=0.0)
    os.close(writer)
    got = bytearray()
    while piece := os.read(reader, 1 << 20):
        got += piece
    os.close(reader)
    assert waiting > 0
    assert len(got) // len(LINE) + file.lost == 100_000


def test_a_reader_that_went_away_fails_nothing_and_is_told_once(told: list[str]) -> None:
    reader, writer = os.pipe()
    file = LogFile(writer)
    os.close(reader)
    for _ in range(100):
        file.write(bytearray(LINE * 1000))
    assert len(told) == 1
    assert "Broken pipe" in told[0]
    assert file.lost == 100_000 - len(file._pending) // len(LINE)
    file.close()
    os.close(writer)


def test_a_full_disk_fails_nothing_and_its_end_is_told(tmp_path: Path, told: list[str]) -> None:
    path = tmp_path / "a.log"
    file = LogFile(str(path))
    real = file._write_some
    full = True

    def write(data: bytearray) -> int:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(data)

    file._write_some = write
    for _ in range(100):
        file.write(bytearray(LINE * 1000))
    assert path.read_bytes() == b""
    full = False
    file.push()
    file.write(bytearray(b"last\n"))
    kept = path.read_bytes()
    assert kept.endswith(LINE + b"last\n")
    assert kept.count(b"\n") - 1 + file.lost == 100_000
    assert len(told) == 2
    assert f"{file.lost} lines were lost" in told[1]
    file.close()


def test_half_a_line_on_a_full_disk_is_completed_later(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    file = LogFile(str(path))
    real = file._write_some
    room = [5, 0]

    def write(data: bytearray) -> int:
        if not room:
            return real(data)
        if not (size := room.pop(0)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(data[:size])

    file._write_some = write
    file.write(bytearray(b"0123456789\n"))
    file.write(bytearray(b"next\n"))
    assert path.read_bytes() == b"0123456789\nnext\n"
    file.close()


def test_the_log_for_people_may_be_the_failing_file_itself(tmp_path: Path) -> None:
    """Telling of the failure writes to the file that fails: it must neither recurse nor write anything twice."""
    path = tmp_path / "a.log"
    file = LogFile(str(path))
    real = file._write_some
    steps: list[int | None] = [4, None, None]

    def write(data: bytearray) -> int:
        if steps:
            step = steps.pop(0)
            if step is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(data[:step])
        return real(data)

    file._write_some = write

    def observe(_event: dict[str, Any]) -> None:
        file.write(bytearray(b"(told)\n"))

    globalLogPublisher.addObserver(cast("ILogObserver", observe))
    try:
        file.write(bytearray(b"abcdefgh\n"))
        file.write(bytearray(b"more\n"))
    finally:
        globalLogPublisher.removeObserver(cast("ILogObserver", observe))
    assert path.read_bytes() == b"abcdefgh\n(told)\nmore\n(told)\n"
    file.close()


def test_when_the_new_file_can_not_be_opened_the_old_one_stays(tmp_path: Path, told: list[str]) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file = LogFile(str(folder / "a.log"))
    file.write(bytearray(b"one\n"))
    folder.rename(tmp_path / "moved")
    file.reopen()
    file.write(bytearray(b"two\n"))
    assert (tmp_path / "moved" / "a.log").read_bytes() == b"one\ntwo\n"
    assert len(told) == 1
    file.close()


def test_reopening_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    file = LogFile(str(tmp_path / "a.log"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        file.reopen()
    assert len(os.listdir("/proc/self/fd")) == before
    file.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_lines_after_the_end_vanish(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    file = LogFile(str(path))
    file.close()
    file.write(bytearray(b"late\n"))
    assert path.read_bytes() == b""
