"""What testssl.sh says of a listener. It takes 40 seconds, and needs Debian's package testssl.sh."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from apigw.net.certificates import CertificateStore
from tests.certificates import Authority
from tests.net.tls_ends import Listening, Recorder, in_thread

TESTSSL = shutil.which("testssl") or shutil.which("testssl.sh")

GRADES = {"LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL"}
"""
What testssl.sh holds against a listener. Its WARN is no grade: something could not be tried by its openssl, which
has no GOST engine, or left before the tickets of TLS 1.3 came. That sessions are resumed is tested in test_tls.
"""

OF_THE_TEST_AUTHORITY = {"cert_chain_of_trust", "cert_revocation", "DNS_CAArecord"}
"""Nobody trusts it, it revokes nothing, localhost has no DNS records: said of the certificate, not of the listener."""


class Web(Recorder):
    """Testssl.sh asks more of who speaks HTTP."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


@pytest.mark.time_limit(240)
@pytest.mark.skipif(TESTSSL is None, reason="testssl.sh is not installed (Debian: apt-get install testssl.sh)")
async def test_testssl_finds_nothing_of_grade_low_or_worse(tmp_path: Path) -> None:
    assert TESTSSL is not None
    authority = Authority()
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    for kind in ("ECDSA", "RSA"):
        authority.issue("localhost", "127.0.0.1", kind=kind).write(certificates / f"{kind}.pem")
    listening = await Listening(CertificateStore([str(certificates)]), Web).start()
    report = tmp_path / "report.json"
    # Protocols, cipher categories, forward secrecy, server preferences and defaults, vulnerabilities.
    checks = ["-p", "-s", "-f", "-P", "-S", "-U"]
    quiet = ["--quiet", "--color", "0", "--warnings", "off", "--ip", "127.0.0.1", "--jsonfile", str(report)]
    command = [TESTSSL, *quiet, *checks, f"localhost:{listening.port}"]
    await in_thread(
        lambda: subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=230, check=False)
    )
    await listening.stop()
    found = {one["id"]: (one["severity"], one["finding"]) for one in json.loads(report.read_text())}
    assert {"SSLv3", "TLS1", "TLS1_2", "TLS1_3", "heartbleed", "LUCKY13", "secure_client_renego"} <= found.keys()
    assert [
        (name, *finding)
        for name, finding in found.items()
        if finding[0] in GRADES and name.split()[0] not in OF_THE_TEST_AUTHORITY
    ] == []
