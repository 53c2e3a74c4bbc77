from __future__ import annotations

import os
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from apigw.net.certificate_files import CertificateError
from apigw.net.certificates import CertificateStore, check
from tests.certificates import Authority

authority = Authority()


def served(context: ssl.SSLContext, kind: str = "ECDSA") -> x509.Certificate:
    """The certificate that a client gets of a context."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    client_context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256" if kind == "ECDSA" else "ECDHE-RSA-AES128-GCM-SHA256")
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = client_context.wrap_bio(a, b), context.wrap_bio(b, a, server_side=True)
    for _ in range(3):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    der = client.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def age(*paths: str | Path) -> None:
    """Make files look as if they had been written long ago (their change time stays today's)."""
    for path in paths:
        os.utime(path, (1e9, 1e9))


class Reports(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)


def test_a_name_is_served_exactly_before_by_wildcard_before_by_default(tmp_path: Path) -> None:
    default, wild, exact = (
        authority.issue("first.example"),
        authority.issue("*.shop.example"),
        authority.issue("pay.shop.example"),
    )
    store = CertificateStore([one.write(tmp_path / f"{n}.pem") for n, one in enumerate((default, wild, exact))])
    for name, expected in {
        "pay.shop.example": exact,
        "www.shop.example": wild,
        "a.www.shop.example": default,  # a wildcard is one label
        "shop.example": default,
        ".shop.example": default,
        "other.example": default,
        None: default,
    }.items():
        assert served(store.choose(name)) == expected.certificate, name
    assert store.names == ["*.shop.example", "first.example", "pay.shop.example"]


def test_rsa_and_ecdsa_for_one_name_share_a_context(tmp_path: Path) -> None:
    small, wide = authority.issue("a.example"), authority.issue("a.example", "b.example", kind="RSA")
    store = CertificateStore([small.write(tmp_path / "ec.pem"), wide.write(tmp_path / "rsa.pem")])
    context = store.choose("a.example")
    assert served(context, "ECDSA") == small.certificate
    assert served(context, "RSA") == wide.certificate
    assert served(store.choose("b.example"), "RSA") == wide.certificate
    assert store.choose(None) is context


def test_folders_are_read_in_all_their_layouts(tmp_path: Path) -> None:
    authority.issue("pair.example").write_pair(tmp_path, "pair")
    authority.issue("one.example").write(tmp_path / "one.pem")
    kubernetes = tmp_path / "..data"
    kubernetes.mkdir()
    certbot = tmp_path / "live.example"
    certbot.mkdir()
    leaf = authority.issue("live.example")
    (certbot / "fullchain.pem").write_bytes(leaf.chain_pem)
    (certbot / "cert.pem").write_bytes(leaf.chain_pem)
    (certbot / "privkey.pem").write_bytes(leaf.key_pem())
    (tmp_path / "README").write_text("no certificate")
    assert CertificateStore([str(tmp_path)]).names == ["live.example", "one.example", "pair.example"]
    assert CertificateStore([str(certbot)]).names == ["live.example"]


def test_two_paths_are_a_certificate_and_its_key(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    certificate, key = authority.issue("a.example").write_pair(folder, "a")
    assert CertificateStore([f"'{certificate}' '{key}'"]).names == ["a.example"]
    assert CertificateStore([f"'{folder}'"]).names == ["a.example"]
    assert CertificateStore([str(folder)]).names == ["a.example"]


def test_the_chain_is_sent_with_the_certificate(tmp_path: Path) -> None:
    leaf = Authority("Intermediate", authority).issue("a.example")
    store = CertificateStore([leaf.write(tmp_path / "a.pem")])
    assert [one.subject for one in store.pairs[0].chain] == [leaf.certificate.subject, leaf.issuers[0].subject]


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    a, b = authority.issue("a.example"), authority.issue("b.example")
    (tmp_path / "mixed.crt").write_bytes(a.chain_pem)
    (tmp_path / "mixed.key").write_bytes(b.key_pem())
    (tmp_path / "locked.crt").write_bytes(a.chain_pem)
    (tmp_path / "locked.key").write_bytes(a.key_pem(b"secret"))
    (tmp_path / "half.pem").write_bytes(a.chain_pem[:300])
    (tmp_path / "alone.crt").write_bytes(a.chain_pem)
    (tmp_path / "badkey.crt").write_bytes(a.chain_pem)
    (tmp_path / "badkey.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    Authority("I", authority).issue("c.example").write(tmp_path / "order.pem")
    blocks = (tmp_path / "order.pem").read_text().split("-----END CERTIFICATE-----\n")
    order = "-----END CERTIFICATE-----\n".join([blocks[1], blocks[0], blocks[2]])
    (tmp_path / "order.pem").write_text(order)
    authority.issue("weak.example", kind="RSA1024").write(tmp_path / "weak.pem")
    with pytest.raises(CertificateError) as caught:
        CertificateStore([str(tmp_path), str(tmp_path / "nowhere.pem")])
    for text, expected in zip(
        str(caught.value).splitlines(),
        [
            "alone.crt: no private key in it (and no .key file beside it)",
            "badkey.key: no readable private key in it",
            "half.pem: no readable certificate in it",
            "locked.key: the key is encrypted, and nobody is there to type its passphrase",
            "mixed.key: not the key of the first certificate in",
            "order.pem: not the key of the first certificate in",
            "weak.pem: OpenSSL refuses it: ee key too small",
            "nowhere.pem: no such file or folder",
        ],
        strict=True,
    ):
        assert expected in text
    assert "put that first" in str(caught.value)


def test_no_certificate_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="no certificate in this folder"):
        CertificateStore([str(tmp_path)])


def test_nothing_changed_is_nothing_done(tmp_path: Path) -> None:
    store = CertificateStore([authority.issue("a.example").write(tmp_path / "a.pem")])
    context = store.choose(None)
    assert not store.reload_if_changed()
    assert store.choose(None) is context


def test_a_renewed_certificate_is_served_and_the_others_keep_their_context(tmp_path: Path) -> None:
    paths = [authority.issue(f"{n}.example").write(tmp_path / f"{n}.pem") for n in "ab"]
    store = CertificateStore(paths)
    a, b = store.choose("a.example"), store.choose("b.example")
    renewed = authority.issue("a.example")
    renewed.write(tmp_path / "a.pem")
    assert store.reload_if_changed()
    assert store.last_error is None
    assert served(store.choose("a.example")) == renewed.certificate
    assert store.choose("a.example") is not a
    assert store.choose("b.example") is b  # its sessions are resumed as before


def test_a_bad_pair_keeps_the_old_one_and_is_reported_once(tmp_path: Path) -> None:
    reports = Reports()
    old, new = authority.issue("a.example"), authority.issue("a.example")
    _, key = old.write_pair(tmp_path, "a")
    store = CertificateStore([str(tmp_path)], report=reports)
    context = store.choose("a.example")
    (tmp_path / "a.crt").write_bytes(new.chain_pem[:200])
    assert not store.reload_if_changed()
    (tmp_path / "a.crt").write_bytes(new.chain_pem)
    for _ in range(3):
        assert not store.reload_if_changed()
        assert store.choose("a.example") is context
        assert store.last_error is not None
        assert f"{key}: not the key of" in store.last_error
        assert "the former one is still served" in store.last_error
    assert len(reports) == 2  # half-written, then mismatched
    (tmp_path / "a.key").write_bytes(new.key_pem())
    assert store.reload_if_changed()
    assert store.last_error is None
    assert served(store.choose("a.example")) == new.certificate


def test_a_new_pair_in_a_folder_is_taken_and_one_that_is_gone_goes_at_the_second_look(tmp_path: Path) -> None:
    authority.issue("a.example").write_pair(tmp_path, "a")
    authority.issue("b.example").write_pair(tmp_path, "b")
    reports = Reports()
    store = CertificateStore([str(tmp_path)], report=reports)
    default = store.choose(None)
    authority.issue("c.example").write(tmp_path / "c.pem")
    assert store.reload_if_changed()
    assert store.names == ["a.example", "b.example", "c.example"]
    os.remove(tmp_path / "a.crt")
    assert not store.reload_if_changed()
    assert "is gone; it is still served" in reports[0]
    assert store.choose(None) is default
    assert store.reload_if_changed()
    assert store.names == ["b.example", "c.example"]
    assert store.last_error is None


def test_a_listed_file_that_is_gone_stays_served(tmp_path: Path) -> None:
    path = authority.issue("a.example").write(tmp_path / "a.pem")
    store = CertificateStore([path])
    os.remove(path)
    for _ in range(3):
        assert not store.reload_if_changed()
    assert store.names == ["a.example"]
    assert store.last_error == f"{path}: no such file or folder; the former one is still served"


def test_a_folder_that_is_emptied_stays_served(tmp_path: Path) -> None:
    path = authority.issue("a.example").write(tmp_path / "a.pem")
    store = CertificateStore([str(tmp_path)])
    os.remove(path)
    for _ in range(3):
        assert not store.reload_if_changed()
    assert store.names == ["a.example"]


def test_a_file_that_was_written_twice_in_one_tick_of_the_clock_is_read_again(tmp_path: Path) -> None:
    path = Path(authority.issue("a.example").write(tmp_path / "a.pem"))
    store = CertificateStore([str(path)])
    marks = os.stat(path)
    renewed = authority.issue("a.example")
    content = renewed.chain_pem + renewed.key_pem()
    path.write_bytes(content.ljust(marks.st_size) if len(content) < marks.st_size else content)
    os.utime(path, ns=(marks.st_atime_ns, marks.st_mtime_ns))
    assert store.reload_if_changed()
    assert served(store.choose(None)) == renewed.certificate


def test_a_symlink_that_points_elsewhere_is_a_change(tmp_path: Path) -> None:
    """Certbot's live/ and a Kubernetes secret are replaced like this."""
    certificates = [authority.issue("a.example") for _ in range(2)]
    for number, one in enumerate(certificates):
        (tmp_path / f"archive{number}").mkdir()
        one.write_pair(tmp_path / f"archive{number}", "tls")
        age(*(tmp_path / f"archive{number}").iterdir())
    (tmp_path / "live").symlink_to(tmp_path / "archive0")
    store = CertificateStore([str(tmp_path / "live")])
    (tmp_path / "next").symlink_to(tmp_path / "archive1")
    (tmp_path / "next").rename(tmp_path / "live")
    assert store.reload_if_changed()
    assert served(store.choose(None)) == certificates[1].certificate


def test_check_says_nothing_of_what_is_well(tmp_path: Path) -> None:
    path = authority.issue("a.example", "*.b.example").write(tmp_path / "a.pem")
    assert check([path], hosts=["a.example", "x.b.example", "*.b.example"]) == []


def test_check_names_every_fault(tmp_path: Path) -> None:
    soon = authority.issue("soon.example", ends=timedelta(days=5, hours=1)).write(tmp_path / "soon.pem")
    expired = authority.issue("old.example", begins=timedelta(days=-9), ends=timedelta(days=-1)).write(
        tmp_path / "old.pem"
    )
    future = authority.issue("new.example", begins=timedelta(days=2)).write(tmp_path / "new.pem")
    double = authority.issue("soon.example").write(tmp_path / "double.pem")
    nameless = authority.issue().write(tmp_path / "nameless.pem")
    misordered = tmp_path / "misordered.pem"
    leaf = Authority("I", authority).issue("chain.example")
    other = Authority("Other").certificate
    misordered.write_bytes(
        leaf.__class__(leaf.certificate, leaf.key, (other, *leaf.issuers)).chain_pem + leaf.key_pem()
    )
    missing = str(tmp_path / "missing.pem")
    found = check(
        [soon, expired, future, double, nameless, str(misordered), missing],
        ciphers="ECDHE+AESGCM:ECDHE+CHACHA21:!RC4",
        hosts=["soon.example", "elsewhere.example"],
    )
    expected = [
        ("error", "tls.ciphers: OpenSSL knows no 'ECDHE+CHACHA21'"),
        ("warning", f"{soon}: the certificate expires in 5 days, on "),
        ("error", f"{expired}: the certificate expired on "),
        ("error", f"{future}: the certificate is not valid before "),
        ("warning", f"{nameless}: names no host (subjectAltName)"),
        ("warning", f"{misordered}: certificate 2 did not issue certificate 1"),
        ("warning", f"{misordered}: certificate 3 did not issue certificate 2"),
        ("error", f"{missing}: no such file or folder"),
        ("warning", f"{double}: soon.example has a certificate of kind ECDSA in {soon} already"),
        ("warning", "tls.certificates: none is for elsewhere.example; clients will see the one for soon.example"),
    ]
    assert len(found) == len(expected)
    for (severity, text), (expected_severity, start) in zip(found, expected, strict=True):
        assert (severity, text[: len(start)]) == (expected_severity, start)


def test_ciphers_that_openssl_does_not_know_are_refused(tmp_path: Path) -> None:
    path = authority.issue("a.example").write(tmp_path / "a.pem")
    with pytest.raises(CertificateError, match=r"tls.ciphers: OpenSSL knows none of 'NONSENSE'"):
        CertificateStore([path], ciphers="NONSENSE")
