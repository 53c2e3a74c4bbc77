"""The reactor: uvloop below, Twisted above, and a fork between."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import uvloop
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorDaemonize
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from apigw.net.reactor import UvloopReactor


def run_python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program with a reactor of its own."""
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
    )


class Ended(ProcessProtocol):
    def __init__(self) -> None:
        self.ended: Deferred[int | None] = Deferred()

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(reason.value.exitCode)  # type: ignore[union-attr]


async def test_tests_run_on_a_uvloop_loop() -> None:
    from twisted.internet import reactor

    assert isinstance(reactor, UvloopReactor)
    assert IReactorDaemonize.providedBy(reactor)
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    assert reactor.loop is asyncio.get_running_loop()


async def test_the_end_of_a_child_process_is_noticed() -> None:
    """uvloop takes Twisted's signal wake-up: without the reactor's own SIGCHLD handler this never ends."""
    from twisted.internet import reactor

    protocol = Ended()
    reactor.spawnProcess(protocol, "/bin/sh", ["sh", "-c", "exit 3"], childFDs={})
    assert await protocol.ended == 3


async def test_a_thread_s_result_comes_back() -> None:
    assert await deferToThread(lambda: 6 * 7) == 42


def test_plain_twisted_does_not_hold_a_fork_and_ours_does() -> None:
    assert not IReactorDaemonize.implementedBy(AsyncioSelectorReactor)
    assert IReactorDaemonize.implementedBy(UvloopReactor)


FORK = """
import os, signal, socket, sys
from apigw.net.reactor import ensure
ensure()
from twisted.internet import reactor, protocol, threads

class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.loseConnection()
        said.append(data)
        if len(said) == 3:
            reactor.stop()

said = []
factory = protocol.Factory.forProtocol(Echo)
port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # a reader from before the fork
number = port.getHost().port
reactor.callLater(0.05, said.append, b"timer")               # a timer from before the fork
reactor.callLater(5, os._exit, 9)
reactor.callWhenRunning(lambda: threads.deferToThread(lambda: b"thread").addCallback(said.append))
old = reactor.loop
reactor.beforeDaemonize()
pid = os.fork()
if pid:
    if sys.argv[-1] == "both":
        reactor.afterDaemonize()
        port.stopListening()
        import time
    _, status = os.waitpid(pid, 0)
    print("child", os.waitstatus_to_exitcode(status))
    raise SystemExit
reactor.afterDaemonize()
assert reactor.loop is not old

def ask():
    s = socket.create_connection(("127.0.0.1", number))
    s.sendall(b"net")

reactor.callLater(0.1, ask)
reactor.addSystemEventTrigger("after", "shutdown", lambda: os.write(1, repr(sorted(said)).encode() + b"\\n"))
reactor.run()
"""


def test_timers_sockets_and_threads_go_on_after_the_fork() -> None:
    done = run_python(FORK)
    assert done.stdout == "[b'net', b'thread', b'timer']\nchild 0\n", done.stderr


def test_parent_and_child_can_both_go_on_after_the_fork() -> None:
    program = """
import os, signal
from apigw.net.reactor import ensure
ensure()
from twisted.internet import reactor

heard = []
reactor.callLater(5, os._exit, 9)
reactor.callLater(0.01, lambda: heard.append("timer"))
reactor.beforeDaemonize()
child = os.fork()
reactor.afterDaemonize()
signal.signal(signal.SIGUSR2, lambda *_: reactor.callFromThread(stop))
def stop():
    heard.append("USR2")
    reactor.stop()
if child:
    reactor.callLater(0.3, os.kill, child, signal.SIGUSR2)   # to the child alone: the parent must not hear it
    reactor.callLater(0.8, reactor.stop)
reactor.run()
if child:
    print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print("parent heard", heard)
else:
    raise SystemExit(heard != ["timer", "USR2"])
"""
    done = run_python(program)
    assert done.stdout == "child 0\nparent heard ['timer']\n", done.stderr


def test_a_reactor_that_was_chosen_before_is_kept() -> None:
    program = """
from twisted.internet import selectreactor
selectreactor.install()
from apigw.net.reactor import ensure
ensure()
from twisted.internet import reactor
print(type(reactor).__name__)
"""
    assert run_python(program).stdout == "SelectReactor\n"


def test_trial_and_twistd_know_the_reactor_by_name() -> None:
    twistd = Path(sys.executable).with_name("twistd")
    listing = subprocess.run([twistd, "--help-reactors"], capture_output=True, text=True, timeout=30, check=True)
    assert "uvloop" in listing.stdout


def test_other_twistd_commands_keep_the_default_reactor() -> None:
    """The plugin file is imported by every twistd command: it must not install a reactor."""
    program = """
import sys
from twisted.plugin import IPlugin, getPlugins
list(getPlugins(IPlugin))
print("twisted.internet.reactor" in sys.modules, "apigw.net.reactor" in sys.modules)
"""
    assert run_python(program).stdout == "False False\n"
