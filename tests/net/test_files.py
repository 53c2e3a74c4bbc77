"""Files that hang, and files that are none: bounded in time and threads, and other files are read meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, gatherResults

from apigw.config import files
from apigw.config.files import Contents
from apigw.net.files import beside


class Mount:
    """A file system that does not answer for paths below ``/hung``, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.back = threading.Event()
        self.stuck: list[str] = []
        self.read = files._read
        monkeypatch.setattr(files, "_read", self._read)

    def _read(self, path: str) -> tuple[bytes, os.stat_result]:
        if path.startswith("/hung"):
            self.stuck.append(path)
            self.back.wait(30)
            return b"late", os.stat("/")
        return self.read(path)


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mount]:
    made = Mount(monkeypatch)
    yield made
    made.back.set()
    while any(each.name == "apigw files" for each in threading.enumerate()) and files.threads._hung:
        time.sleep(0.001)


def read_beside(path: str, timeout: float = 0.05) -> Deferred[bytes]:
    return beside(path, lambda: files.read(path), timeout)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "not a regular file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.write_bytes(bytes(files.LONGEST + 1)), "longer than 16 MiB"),
        (lambda path: None, "No such file or directory"),
    ],
)
def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path, make: object, why: str) -> None:
    path = tmp_path / "file"
    assert callable(make)
    make(path)
    with pytest.raises(OSError, match=why) as raised:
        files.read(path)
    assert raised.value.strerror == why


def test_a_file_of_16_mib_and_a_kubernetes_secret_are_read(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "big").write_bytes(bytes(files.LONGEST))
    (tmp_path / "big").symlink_to("..data/big")
    assert files.read(tmp_path / "big") == bytes(files.LONGEST)


def test_contents_read_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    with Contents() as contents:
        assert files.read(tmp_path / "file") == b"one"
        (tmp_path / "file").write_text("two")
        assert files.read(tmp_path / "file") == b"one"
    assert files.read(tmp_path / "file") == b"two"
    with contents:
        assert files.read(tmp_path / "file") == b"one"
    contents.forget()
    with contents:
        assert files.read(tmp_path / "file") == b"two"


def test_loading_waits_for_hung_files_only_twice_and_then_reads_no_more(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "good").write_text("good")
    began = time.monotonic()
    with Contents(timeout=0.05):
        for number in range(2):
            with pytest.raises(TimeoutError) as raised:
                files.read(f"/hung/{number}")
            assert raised.value.strerror == "no answer within 0.05 s"
        with pytest.raises(TimeoutError, match="not tried, because other files did not answer"):
            files.read(tmp_path / "good")
    assert time.monotonic() - began < 5
    assert mount.stuck == ["/hung/0", "/hung/1"]


async def test_a_hung_file_gets_one_thread_and_other_files_are_read(mount: Mount, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_text("good")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await read_beside("/hung/keys")
        assert await read_beside(str(good)) == b"good"
    assert mount.stuck == ["/hung/keys"]
    mount.back.set()
    while files.threads._hung:
        await beside(str(good), lambda: time.sleep(0.001), 5)
    assert await read_beside("/hung/keys") == b"late"


async def test_many_hung_files_do_not_starve_the_others(mount: Mount, tmp_path: Path) -> None:
    hung = [read_beside(f"/hung/{number}/file") for number in range(3 * files.WORKING)]
    (tmp_path / "good").write_text("good")
    good = [beside(f"{tmp_path}/{number}", lambda: files.read(tmp_path / "good"), 0.05) for number in range(50)]
    assert await gatherResults(good) == [b"good"] * 50
    failed = [await each.addErrback(lambda failure: failure.type) for each in hung]
    assert failed == [TimeoutError] * len(hung)
    assert len(mount.stuck) == len(set(mount.stuck)) == len(hung)
    mount.back.set()


async def test_a_folder_of_hung_files_takes_a_bounded_number_of_threads(mount: Mount, tmp_path: Path) -> None:
    for number in range(2 * files.HUNG_OF_A_FOLDER):
        with pytest.raises(TimeoutError):
            await read_beside(f"/hung/folder/{number}", 0.01)
    assert len(mount.stuck) == files.HUNG_OF_A_FOLDER


async def test_two_that_read_one_file_take_turns() -> None:
    seen: list[str] = []

    def work(name: str) -> str:
        seen.append(f"{name} begins")
        time.sleep(0.005)
        seen.append(f"{name} ends")
        return name

    found = await gatherResults([beside("/same", lambda name=name: work(name), 5) for name in "abc"])  # type: ignore[misc]
    assert found == ["a", "b", "c"]
    assert seen == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]


async def test_what_is_no_longer_waited_for_disturbs_nobody(mount: Mount) -> None:
    waiting = read_beside("/hung/left", 5)
    waiting.addErrback(lambda _: None)
    waiting.cancel()
    mount.back.set()
    assert await read_beside("/hung/left", 5) == b"late"


def test_a_forked_process_reads_with_threads_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    assert files.read(tmp_path / "file") == b"content"
    child = os.fork()
    if not child:  # pragma: no cover
        os._exit(0 if files.read(tmp_path / "file") == b"content" else 1)
    assert os.waitpid(child, 0)[1] == 0
