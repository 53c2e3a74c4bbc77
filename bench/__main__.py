"""
``python -m bench``: CASE, SECONDS and ROUNDS in the environment (from ``make bench``) say what and how long; AGAINST
names a commit to compare with.
"""

from __future__ import annotations

import http.client
import os
import resource
import shutil
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench import against, peers, report
from bench.cases import CASES, Case
from bench.gateways import Place, Setup
from bench.measures import Bench, Running
from bench.processes import GATEWAY_CORE, LOAD_CORE, Process, free_port, wait_for_port


def progress(text: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')}  {text}", flush=True)


def chosen(names: str) -> list[Case]:
    """
    The cases named, all without a name.

    :raises SystemExit: at an unknown one.
    """
    wanted = names.replace(",", " ").split() or list(CASES)
    if unknown := [name for name in wanted if name not in CASES]:
        raise SystemExit(f"unknown case {', '.join(unknown)}; there are: {', '.join(CASES)}")
    return [CASES[name] for name in wanted]


def certificate(folder: Path) -> Path:
    """A self-signed ECDSA certificate for localhost, with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "localhost.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


class Stage:
    """The processes of one case, with a folder for each; all are ended when it is left."""

    def __init__(self, case: Case, folder: Path, cleanup: ExitStack) -> None:
        self._case = case
        self._folder = folder
        self._cleanup = cleanup
        self._certificate = certificate(folder) if case.tls else None
        self.origin = self._place("origin", 0, None)
        self._start("origin", case.origin(self.origin), self.origin, LOAD_CORE)
        status, body = _fetched(self.origin.port, case.check.path, {}, tls=False)
        if status != 200:
            raise RuntimeError(f"the origin answers {status} {body[:200]!r}")

    def _place(self, name: str, origin: int, tls: Path | None) -> Place:
        folder = self._folder / name
        folder.mkdir()
        return Place(folder, free_port(), origin, free_port(), tls)

    def _start(self, name: str, setup: Setup, place: Place, core: int) -> Process:
        for file, text in setup.files.items():
            (place.folder / file).write_text(text)
        process = Process(name, setup.command, core=core, folder=place.folder, env=setup.env)
        self._cleanup.callback(process.stop)
        wait_for_port(process, place.port)
        return process

    def gateway(self, name: str) -> Running:
        """
        Start a gateway, and see that it passes on what the origin says.

        :raises RuntimeError: when it does not.
        """
        place = self._place(name, self.origin.port, self._certificate)
        if shutil.which((setup := self._case.gateways[name](place)).command[0]) is None:
            raise RuntimeError(f"{setup.command[0]} is not installed")
        process = self._start(name, setup, place, GATEWAY_CORE)
        scheme = "https://localhost" if self._case.tls else "http://127.0.0.1"
        target, headers = self._case.check.path, dict(self._case.check.all_fields)
        direct = _fetched(self.origin.port, target, headers, tls=False)
        through = _fetched(place.port, target, headers, tls=self._case.tls)
        if self._case.base != "plain" and direct != through:
            raise RuntimeError(f"{name} answers {through[0]} {through[1][:60]!r} instead of {direct[0]}")
        if through[0] != 200:
            raise RuntimeError(f"{name} answers {through[0]} {through[1][:200]!r}")
        return Running(name, process, place.port, f"{scheme}:{place.port}")


def _fetched(port: int, target: str, headers: Mapping[str, str], *, tls: bool) -> tuple[int, bytes]:
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "localhost", port, context=context, timeout=10
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", target, headers={**headers, "Connection": "close"})
    response = connection.getresponse()
    try:
        return response.status, response.read()
    finally:
        connection.close()


def measured(case: Case, seconds: float, rounds: int, commit: str = "") -> bool:
    """
    Measure a case; print its result, and write it and the page unless a ``commit`` is compared.

    :returns: False if apigw itself could not be measured.
    """
    rounds = case.rounds or rounds
    print(f"{case.name}: {case.title}")
    failed: dict[str, str] = {}
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        stage = Stage(case, folder, cleanup)
        running = []
        for name in case.gateways:
            try:
                running.append(stage.gateway(name))
            except (RuntimeError, ImportError, OSError, http.client.HTTPException) as error:
                failed[name] = str(error)
                progress(f"{name} is left out: {error}")
        bench = Bench(running, seconds, rounds, LOAD_CORE, folder, progress)
        rows = list(case.measure(bench))
    if not rows:
        raise SystemExit(f"{case.name}: nothing could be measured")
    outcome = report.result(case, rows, failed, seconds=seconds, rounds=rounds)
    print(report.table(outcome))
    if commit:
        print(f"  {against.compared(rows, commit)}")
    else:
        report.save(outcome)
    return "apigw" not in failed


def raise_descriptor_limit() -> None:
    """Let this process and all that it starts have 65,536 open files, or as many as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, 65536), max(hard, 65536)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Measure what CASE says (all without it), SECONDS each, ROUNDS times; beside AGAINST, if that names a commit."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started us with it ignored
    cases = chosen(os.environ.get("CASE", ""))
    seconds, rounds = float(os.environ.get("SECONDS") or 3), int(os.environ.get("ROUNDS") or 3)
    raise_descriptor_limit()
    peers.install(progress)
    os.sched_setaffinity(0, {LOAD_CORE})
    complete = True
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        commit = os.environ.get("AGAINST", "")
        if commit:
            commit = against.checked_out(commit, Path(folder))
            cases = [against.beside(case, commit, Path(folder)) for case in cases]
        for case in cases:
            try:
                complete &= measured(case, seconds, rounds, commit)
            except RuntimeError as error:
                raise SystemExit(f"{case.name}: {error}") from None
    if not commit:
        print(f"written: {report.PAGE.relative_to(report.ROOT)} and bench/results/")
    if not complete:
        raise SystemExit("apigw could not be measured in every case")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
