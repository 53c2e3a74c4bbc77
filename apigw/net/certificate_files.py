"""
Certificates with their keys, as they lie in files and folders, and what is wrong with them.

A source is a folder, a PEM file that holds chain and key, or two paths with white space between (certificate, key).
In a folder: NAME.crt, NAME.cer or NAME.pem, with the key beside it in NAME.key or in the same file (so a Kubernetes
secret's tls.crt and tls.key), fullchain.pem with privkey.pem, and the latter in sub-folders (so certbot's live/).

Not here: contexts, names, reloading (``certificates``).
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from apigw.config import files

EXPIRY_WARNING: Final = timedelta(days=14)
"""How long before its end a certificate is warned of. ACME clients renew 30 days before: they have failed by then."""

_SUFFIXES: Final = (".crt", ".cer", ".pem")
_CERTBOT_PARTS: Final = {"cert.pem", "chain.pem", "fullchain.pem", "privkey.pem"}
_KEY: Final = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.+?-----END \1-----\n?", re.DOTALL)


class CertificateError(Exception):
    """A certificate can't be served; the text names the file and says why."""


@contextmanager
def as_file(content: bytes) -> Iterator[str]:
    """
    A path at which OpenSSL reads these bytes (it takes nothing but paths).

    Not the files themselves: they may have changed since they were checked. In memory, where there is memfd.
    """
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("certificate")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:  # readable by its owner only
            file.write(content)
            file.flush()
            yield file.name


@dataclass(frozen=True, slots=True)
class PairFiles:
    """Where a certificate and its key lie; both paths are the same when one file holds them."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class Pair:
    """
    A certificate chain and its key, read and found to belong together.

    :ivar names: the DNS names it is for, lower case, wildcards as ``*.x``.
    :ivar kind: ``RSA``, ``ECDSA`` or another key type's name: a context takes one pair of each.
    :ivar key: the private key.
    :ivar pem: chain and key, as OpenSSL shall read them.
    :ivar digest: of the bytes read; equal digests are the same pair.
    """

    files: PairFiles
    digest: bytes
    key: PrivateKeyTypes
    pem: bytes
    chain: tuple[x509.Certificate, ...]
    names: tuple[str, ...]
    kind: str


def pair_files(sources: Iterable[str]) -> list[PairFiles]:
    """
    Every pair that the sources name, in their order, a folder's by file name.

    :raises CertificateError: a source is neither a file, nor a folder, nor two paths; or a folder holds none.
    """
    found: dict[str, PairFiles] = {}
    for source in sources:
        try:
            pairs = _of_source(source)
        except OSError as error:
            raise CertificateError(f"{source}: {error.strerror}") from error
        for pair in pairs:
            found.setdefault(pair.certificate, pair)
    return list(found.values())


def _of_source(source: str) -> list[PairFiles]:
    if files.is_folder(source):
        pairs = _of_folder(source)
        if not pairs:
            raise CertificateError(f"{source}: no certificate in this folder")
        return pairs
    if files.exists(source):
        return [PairFiles(source, source)]
    paths = source_paths(source)
    if len(paths) == 1 and paths[0] != source:
        return _of_source(paths[0])
    if len(paths) == 2:
        return [PairFiles(paths[0], paths[1])]
    raise CertificateError(f"{source}: no such file or folder")


def source_paths(source: str) -> list[str]:
    """
    The paths of a source, which are quoted as in a shell where they must be.

    :raises CertificateError: a file system does not answer.
    """
    try:
        if files.exists(source):
            return [source]
    except OSError as error:
        raise CertificateError(f"{source}: {error.strerror}") from error
    try:
        return shlex.split(source)
    except ValueError:
        return [source]


def _of_folder(folder: str) -> list[PairFiles]:
    pairs = _certbot_pair(folder)
    certbot = bool(pairs)
    for name in sorted(files.names(folder)):
        path = os.path.join(folder, name)
        stem, suffix = os.path.splitext(path)
        if name.startswith(".") or (certbot and name in _CERTBOT_PARTS):
            continue
        if files.is_folder(path):
            pairs += _certbot_pair(path)
        elif suffix in _SUFFIXES:
            key = stem + ".key"
            pairs.append(PairFiles(path, key if files.exists(key) else path))
    return pairs


def _certbot_pair(folder: str) -> list[PairFiles]:
    chain, key = os.path.join(folder, "fullchain.pem"), os.path.join(folder, "privkey.pem")
    return [PairFiles(chain, key)] if files.exists(chain) and files.exists(key) else []


def stamp(sources: Iterable[str]) -> tuple[tuple[int | str, *tuple[int, ...]], ...]:
    """
    What changes when a file of the sources does. Costs a listing a folder and a stat a file.

    :returns: of each file ``(path, inode, size, modified, changed)``, times in ns; where that fails ``(text, error)``.
    """
    marks: list[tuple[int | str, *tuple[int, ...]]] = []
    for source in sources:
        try:
            pairs = pair_files([source])
        except CertificateError as error:
            marks.append((str(error), 0))
            continue
        for path in {path: None for pair in pairs for path in (pair.certificate, pair.key)}:
            try:
                status = files.status(path)
            except OSError as error:
                marks.append((path, error.errno or 0))
            else:
                marks.append((path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(marks)


def read_bytes(pair: PairFiles) -> tuple[bytes, bytes]:
    """
    The bytes of certificate and key.

    :raises CertificateError: a file can't be read.
    """
    contents = []
    for path in (pair.certificate, pair.key):
        try:
            contents.append(files.read(path))
        except OSError as error:
            raise CertificateError(f"{path}: {error.strerror}") from error
    return contents[0], contents[1]


def digest_of(certificate: bytes, key: bytes) -> bytes:
    """Equal for equal contents."""
    return hashlib.sha256(b"%d:" % len(certificate) + certificate + key).digest()


def load_pair(where: PairFiles) -> Pair:
    """
    Read a pair, and see that key and certificate belong together.

    :raises CertificateError: unreadable, half-written, encrypted, or not a pair.
    """
    certificate_pem, key_pem = read_bytes(where)
    try:
        chain = tuple(x509.load_pem_x509_certificates(certificate_pem))
        names = _names(chain[0])
    except ValueError as error:
        raise CertificateError(f"{where.certificate}: no readable certificate in it") from error
    block = _KEY.search(key_pem)
    if block is None:
        beside = " (and no .key file beside it)" if where.key == where.certificate else ""
        raise CertificateError(f"{where.key}: no private key in it{beside}")
    try:
        # The check for a well-made RSA key takes long, and OpenSSL sees at once whether it belongs to the certificate.
        key = load_pem_private_key(block[0], None, unsafe_skip_rsa_key_validation=True)
    except TypeError as error:
        text = f"{where.key}: the key is encrypted, and nobody is there to type its passphrase"
        raise CertificateError(text) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{where.key}: no readable private key in it") from error
    of_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    matching = [_public_bytes(certificate) == of_key for certificate in chain]
    if not matching[0]:
        hint = "; its own stands further down: put that first" if any(matching) else ""
        raise CertificateError(f"{where.key}: not the key of the first certificate in {where.certificate}{hint}")
    pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain) + block[0]
    return Pair(where, digest_of(certificate_pem, key_pem), key, pem, chain, names, _kind(chain[0]))


def _public_bytes(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return b""


def _kind(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return "RSA"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "ECDSA"
    return type(key).__name__.removesuffix("PublicKey")


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Of the subjectAltName only: no client looks at the common name any more (RFC 9525 6.3, RFC 9110 4.3.4)."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(dict.fromkeys(name.lower() for name in extension.value.get_values_for_type(x509.DNSName)))


def findings(pair: Pair, now: datetime | None = None) -> Iterable[tuple[str, str]]:
    """What an operator should know of a pair that loads: ``("error" | "warning", text)``, each naming the file."""
    now = now or datetime.now(UTC)
    leaf = pair.chain[0]
    where = pair.files.certificate
    for number, certificate in enumerate(pair.chain, 1):
        which = "the certificate" if number == 1 else f"certificate {number} of its chain"
        ends = certificate.not_valid_after_utc
        if ends <= now:
            yield "error", f"{where}: {which} expired on {ends:%Y-%m-%d %H:%M} UTC"
        elif certificate.not_valid_before_utc > now:
            begins = certificate.not_valid_before_utc
            yield "error", f"{where}: {which} is not valid before {begins:%Y-%m-%d %H:%M} UTC"
        elif ends - now < EXPIRY_WARNING:
            yield "warning", f"{where}: {which} expires in {(ends - now).days} days, on {ends:%Y-%m-%d}"
    for number, (issued, issuer) in enumerate(zip(pair.chain, pair.chain[1:], strict=False), 1):
        if not _issued_by(issued, issuer):
            yield (
                "warning",
                (
                    f"{where}: certificate {number + 1} did not issue certificate {number}; "
                    "the order is leaf, its issuer, that one's issuer"
                ),
            )
    if not pair.names:
        yield "warning", f"{where}: names no host (subjectAltName), so no client will trust it for one"
    if leaf.issuer == leaf.subject and len(pair.chain) == 1 and not _is_authority(leaf):
        yield "warning", f"{where}: is self-signed; clients must be told to trust it"


def _issued_by(issued: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        issued.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
