"""
START HERE for files: they are read by threads of their own, so that a file system that does not answer stops nothing.

A read from a network mount that is gone blocks its thread, cannot be interrupted and may never end. So:

- A path has at most one thread. Once a read took longer than its time-out, the path is refused until that read ends.
- A thread that hangs is replaced, so other files never wait for it. Of a folder at most ``HUNG_OF_A_FOLDER`` files get
  a thread that hangs; after that its files are refused until one of these reads ends.
- The threads are daemons: neither SIGTERM nor the end of the process waits for them.
- Regular files only, at most ``LONGEST`` bytes: a FIFO or device is an error at once.

``read``, ``status`` and ``names`` wait for at most the time-out: for loading a configuration. In ``with Contents():``
each file is read once, and what was read stays: what was checked is what is used, and building from it waits for
nothing. The reactor has ``apigw.net.files.beside``, which gives a Deferred; what runs there calls the same ``read``,
``status`` and ``names``, and there they read at once.

All raise OSError, whose ``strerror`` says why; TimeoutError if there is no answer in time.

Not here: when files are looked at again (``policies.watched_file``, ``upstream.discovery.file``, ``net.certificates``).
"""

from __future__ import annotations

import errno
import glob
import os
import stat
import threading
from collections import Counter, deque
from collections.abc import Callable
from contextvars import ContextVar, Token
from time import monotonic
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

LONGEST: Final = 16 * 1024 * 1024
"""Bytes of a file that are read at most."""
TIMEOUT: Final = 5.0
"""Seconds for a file, the default of ``[gateway] file_timeout``."""
HUNG_OF_A_FOLDER: Final = 8
WORKING: Final = 16
"""Threads that work at once; those that hang are not counted."""
IDLE: Final = 5.0
"""Seconds after which a thread without work ends."""


# ---- what is asked of a file; these block ----------------------------------------------------------------------------


def _read(path: str) -> tuple[bytes, os.stat_result]:
    _refuse_special(os.stat(path).st_mode)  # before it is opened: to open a device or a FIFO has effects
    return _content(path, regular=True)


def _read_any(path: str) -> tuple[bytes, os.stat_result]:
    return _content(path, regular=False)


def _content(path: str, *, regular: bool) -> tuple[bytes, os.stat_result]:
    with open(path, "rb", buffering=0, opener=_opened) as file:
        about = os.fstat(file.fileno())
        if regular:
            _refuse_special(about.st_mode)
        os.set_blocking(file.fileno(), True)  # only to open it must not wait for a FIFO's other end
        pieces = []
        left = LONGEST + 1
        while left and (piece := file.read(min(left, max(about.st_size + 1, 65536)))):
            pieces.append(piece)
            left -= len(piece)
    if not left:
        raise OSError(errno.EFBIG, f"longer than {LONGEST // 1024 // 1024} MiB")
    return b"".join(pieces), about


def _status(path: str) -> os.stat_result:
    return os.stat(path)


def _matching(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern))


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def _refuse_special(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file")


# ---- threads ---------------------------------------------------------------------------------------------------------


class Job:
    """One piece of work for one path."""

    __slots__ = ("ended", "error", "given_up", "over", "path", "result", "started", "work")

    def __init__(self, path: str, work: Callable[[], Any], ended: Callable[[], None]) -> None:
        """
        :param ended: called from the thread, once.
        """
        self.path = path
        self.work = work
        self.ended = ended
        self.started: float | None = None
        self.given_up = False
        self.over = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.work()
        except BaseException as error:
            self.error = error

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self.result


class Threads:
    """The threads of this process that work on files."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew: a forked child has none of its parent's threads."""
        self._wake = threading.Condition(threading.Lock())
        self._jobs: dict[str, Job] = {}  # by path: the one that runs, or is next
        self._behind: dict[str, deque[Job]] = {}  # by path: those that wait for it
        self._waiting: deque[Job] = deque()
        self._hung: Counter[str] = Counter()  # by folder
        self._working = 0
        self._idle = 0

    def begin(self, job: Job) -> None:
        """
        :raises TimeoutError: an earlier read of this path, or too many of its folder, have not ended.
        """
        with self._wake:
            former = self._jobs.get(job.path)
            if former is not None and former.given_up:
                raise TimeoutError(errno.ETIMEDOUT, "no answer: an earlier attempt to read it has not ended")
            if self._hung[os.path.dirname(job.path)] >= HUNG_OF_A_FOLDER:
                raise TimeoutError(errno.ETIMEDOUT, "no answer: too many files of its folder do not answer")
            if former is not None:
                self._behind.setdefault(job.path, deque()).append(job)
                return
            self._jobs[job.path] = job
            self._queue(job)

    def give_up(self, job: Job, timeout: float) -> float:
        """
        Wait no longer for a job.

        :return: seconds to wait all the same: it was not its path's fault that it could not begin, or end.
        """
        with self._wake:
            if job.over:
                return 0.0
            if job.started is None and self._jobs.get(job.path) is job:
                return timeout
            if job.started is not None and (left := job.started + timeout - monotonic()) > 0.001:
                return left
            job.given_up = True
            if job.started is None:
                self._behind[job.path].remove(job)
                return 0.0
            self._working -= 1
            self._hung[os.path.dirname(job.path)] += 1
            if self._waiting:
                self._more()
            return 0.0

    def _queue(self, job: Job) -> None:
        self._waiting.append(job)
        if self._idle >= len(self._waiting):
            self._wake.notify()
        elif self._working < WORKING:
            self._more()

    def _more(self) -> None:
        self._working += 1
        threading.Thread(target=self._serve, name="apigw files", daemon=True).start()

    def _serve(self) -> None:
        _contents.set(_AT_ONCE)
        while (job := self._next()) is not None:
            job.run()
            given_up = self._ended(job)
            job.ended()
            if given_up:  # another thread has taken the place of this one
                return

    def _next(self) -> Job | None:
        with self._wake:
            if not self._waiting:
                self._idle += 1
                self._wake.wait_for(lambda: self._waiting, IDLE)
                self._idle -= 1
            if not self._waiting:
                self._working -= 1
                return None
            job = self._waiting.popleft()
            job.started = monotonic()
            return job

    def _ended(self, job: Job) -> bool:
        with self._wake:
            job.over = True
            if job.given_up:
                folder = os.path.dirname(job.path)
                self._hung[folder] -= 1
                self._hung += Counter()  # drops zeros
            behind = self._behind.get(job.path)
            if behind:
                following = self._jobs[job.path] = behind.popleft()
                self._queue(following)
            else:
                self._behind.pop(job.path, None)
                del self._jobs[job.path]
            return job.given_up


threads = Threads()
os.register_at_fork(after_in_child=threads.reset)


def _waited_for(path: str, work: Callable[[], Any], timeout: float) -> Any:
    over = threading.Lock()  # held until it is over; an Event takes longer
    over.acquire()
    job = Job(path, work, over.release)
    threads.begin(job)
    wait = timeout
    while not over.acquire(timeout=wait):
        wait = threads.give_up(job, timeout)
        if not wait and not job.over:
            raise too_late(timeout)
        wait = wait or timeout
    return job.outcome()


def too_late(timeout: float) -> TimeoutError:
    """What is raised when there is no answer in time."""
    return TimeoutError(errno.ETIMEDOUT, f"no answer within {timeout:g} s")


# ---- what others call ------------------------------------------------------------------------------------------------


class Contents:
    """
    What is read while a configuration is loaded and built: each file once.

    :ivar timeout: seconds for a file. When files have hung for twice that, the others are not tried any more.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout
        self._known: dict[tuple[Callable[[str], Any], str], tuple[Any, Exception | None]] = {}
        self._hung = 0.0
        self._tokens: list[Token[Contents | None]] = []

    def __enter__(self) -> Self:
        self._tokens.append(_contents.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _contents.reset(self._tokens.pop())

    def forget(self) -> None:
        """Free what was read: everything has been built from it."""
        self._known.clear()
        self._hung = 0.0

    def ask(self, what: Callable[[str], T], path: str) -> T:
        """What ``what(path)`` gives."""
        known = self._known.get((what, path))
        if known is None:
            known = self._known[what, path] = self._answer(what, path)
            if what is _read and known[1] is None:  # what is known of a file is of the content that was read
                self._known.setdefault((_status, path), (known[0][1], None))
        value, error = known
        if error is not None:
            raise error.with_traceback(None)
        answer: T = value
        return answer

    def _answer(self, what: Callable[[str], T], path: str) -> tuple[T | None, Exception | None]:
        if self._hung >= 2 * self.timeout:
            return None, TimeoutError(errno.ETIMEDOUT, "it was not tried, because other files did not answer")
        started = monotonic()
        try:
            return _waited_for(path, lambda: what(path), self.timeout), None
        except TimeoutError as error:
            self._hung += monotonic() - started
            return None, error
        except (OSError, ValueError) as error:
            return None, error


_AT_ONCE: Final = Contents()
"""In the threads themselves."""
_contents: ContextVar[Contents | None] = ContextVar("contents", default=None)


def use_timeout(seconds: float) -> None:
    """Take the configured time-out for what is read from now on into the current contents."""
    contents = _contents.get()
    if contents is not None:
        contents.timeout = seconds


def _ask(what: Callable[[str], T], path: str) -> T:
    contents = _contents.get()
    if contents is _AT_ONCE:
        return what(path)
    return (contents or Contents()).ask(what, path)


def read(path: str | os.PathLike[str]) -> bytes:
    """The whole content of a regular file."""
    return _ask(_read, os.fspath(path))[0]


def read_any(path: str | os.PathLike[str]) -> bytes:
    """The same of a pipe or device too, such as ``/dev/stdin``."""
    return _ask(_read_any, os.fspath(path))[0]


def status(path: str | os.PathLike[str]) -> os.stat_result:
    """What ``os.stat`` says."""
    return _ask(_status, os.fspath(path))


def names(folder: str | os.PathLike[str]) -> list[str]:
    """What ``os.listdir`` says."""
    return _ask(os.listdir, os.fspath(folder))


def real(path: str) -> str:
    """What ``os.path.realpath`` says."""
    return _ask(os.path.realpath, path)


def matching(pattern: str) -> list[str]:
    """The paths that a pattern such as ``routes/*.ini`` matches, sorted."""
    return _ask(_matching, pattern)


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is something."""
    return _mode(path) != 0


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder."""
    return stat.S_ISDIR(_mode(path))


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a regular file."""
    return stat.S_ISREG(_mode(path))


def _mode(path: str | os.PathLike[str]) -> int:
    """
    :raises TimeoutError: nothing is known.
    """
    try:
        return status(path).st_mode
    except TimeoutError:
        raise
    except (OSError, ValueError):
        return 0
