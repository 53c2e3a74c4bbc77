"""
Which certificate a client gets: chosen by the name it asks for, and taken anew when the files change.

    store = CertificateStore(["/etc/apigw/certificates"], report=log_it)
    context = store.choose("shop.example")
    found = store.look()                # every second or so, in a thread: it reads files
    if found is not None:
        store.take(found)               # in the reactor

An exact name goes before a wildcard (which stands for one label), and what nobody named gets the first certificate.
If there is an RSA and an ECDSA certificate for a name, one context holds both, and the client's abilities decide.

A context that did not change stays the same object across a reload, and with it the keys of its session tickets.
Workers that were forked after the store was made share these keys, so a session is resumed by any of them.

Not here: reading the files (``certificate_files``), asking for the name (``client_hello``).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from apigw.net.certificate_files import (
    CertificateError,
    Pair,
    PairFiles,
    as_file,
    digest_of,
    findings,
    load_pair,
    pair_files,
    read_bytes,
    stamp,
)

VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"
"""Of TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325 4.2). Those of 1.3 are all fit, and fixed."""

RACY: Final = 2.0
"""Seconds. A file changed this lately may change again within its time stamp's resolution: it is read again."""


def context_for(
    pairs: Iterable[Pair], *, minimum: str = "1.2", ciphers: str = CIPHERS, alpn: Sequence[str] = ("http/1.1",)
) -> ssl.SSLContext:
    """
    A server's context that holds the pairs, at most one of each kind.

    :raises CertificateError: OpenSSL refuses a pair (a key that is too short) or the ciphers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[minimum]
    # Renegotiation lets a client make us work at will, and has no use here; compression gives secrets away (CRIME).
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError as error:
        raise CertificateError(f"tls.ciphers: OpenSSL knows none of {ciphers!r}") from error
    context.set_alpn_protocols(list(alpn))
    for pair in pairs:
        with as_file(pair.pem) as path:
            try:
                context.load_cert_chain(path, password="")
            except ssl.SSLError as error:
                reason = (error.reason or str(error)).replace("_", " ").lower()
                raise CertificateError(f"{pair.files.certificate}: OpenSSL refuses it: {reason}") from error
    return context


@dataclass(slots=True)
class _Tables:
    """
    Which context serves which name.

    :ivar wildcards: by what follows ``*.``. :ivar contexts: by the digests of their pairs.
    """

    default: ssl.SSLContext | None = None
    exact: dict[str, ssl.SSLContext] = field(default_factory=dict)
    wildcards: dict[str, ssl.SSLContext] = field(default_factory=dict)
    contexts: dict[tuple[bytes, ...], ssl.SSLContext] = field(default_factory=dict, compare=False)


@dataclass(slots=True)
class Loaded:
    """
    What one look at the files found.

    :ivar pairs: by certificate path, with those of before that could not be read. :ivar problems: what is wrong.
    :ivar sources: by certificate path: the source that it is of.
    :ivar missing: certificate paths that a folder had at an earlier look, and not at this one.
    :ivar stamp: of the files; None if they must be read again.
    """

    pairs: dict[str, Pair] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    stamp: object = None
    tables: _Tables = field(default_factory=_Tables)


class CertificateStore:
    """
    The certificates of one listener.

    :ivar last_error: what the last look at the files found wrong; None when all is well.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        minimum: str = "1.2",
        ciphers: str = CIPHERS,
        alpn: Sequence[str] = ("http/1.1",),
        report: Callable[[str], None] | None = None,
    ) -> None:
        """
        :param sources: files, folders, or pairs of paths (``certificate_files``); the first is the default.
        :param minimum: ``1.2`` or ``1.3``.
        :param ciphers: of TLS 1.2, in OpenSSL's words.
        :param alpn: protocols spoken, the preferred first.
        :param report: is told, once, what a reload found wrong.
        :raises CertificateError: a pair can't be served. All that is wrong is in the text, a line each.
        """
        self.sources = list(sources)
        self.alpn = tuple(name.encode("ascii") for name in alpn)
        self.last_error: str | None = None
        self._minimum, self._ciphers, self._alpn = minimum, ciphers, alpn
        self._report = report
        self._loaded = Loaded()
        self._tables = _Tables()
        found = self._load()
        if found.problems:
            raise CertificateError("\n".join(found.problems))
        self.take(found)

    def choose(self, server_name: str | None) -> ssl.SSLContext:
        """The context for a name as ``ClientHello`` gives it (lower case)."""
        tables = self._tables
        default: ssl.SSLContext = tables.default  # type: ignore[assignment]  # the constructor sees to that
        if server_name is None:
            return default
        found = tables.exact.get(server_name)
        if found is None and tables.wildcards:
            label, _, rest = server_name.partition(".")
            found = tables.wildcards.get(rest) if label else None
        return found or default

    @property
    def names(self) -> list[str]:
        """All names that have a certificate, sorted."""
        return sorted([*self._tables.exact, *(f"*.{rest}" for rest in self._tables.wildcards)])

    @property
    def pairs(self) -> list[Pair]:
        """What is being served, in the order of the sources."""
        return list(self._loaded.pairs.values())

    def look(self) -> Loaded | None:
        """
        Look whether files changed, and read those that did. It changes nothing here, so a thread may do it.

        Takes a stat a file when nothing changed, about a millisecond for each pair that did.

        :returns: what to ``take``; None if nothing changed.
        """
        if stamp(self.sources) == self._loaded.stamp:
            return None
        return self._load()

    def take(self, found: Loaded) -> bool:
        """
        Serve what was found. A pair that could not be read keeps its former one; ``last_error`` and ``report`` say so.

        :returns: whether something is served otherwise than before.
        """
        error = "\n".join(found.problems) or None
        if error is not None and error != self.last_error and self._report is not None:
            self._report(error)
        self.last_error = error
        if not found.pairs:
            return False
        before, self._tables = self._tables, found.tables
        self._loaded = found
        return before != self._tables

    def reload_if_changed(self) -> bool:
        """``look`` and ``take`` at once."""
        found = self.look()
        return found is not None and self.take(found)

    def _load(self) -> Loaded:
        # Marks first: what changes while we read differs from them, and is seen the next time.
        marks = stamp(self.sources)
        found = self._read()
        if not found.pairs:
            found.problems = found.problems or ["tls.certificates: none"]
            return found
        found.tables = self._made(found.pairs)
        newest = max((max(mark[3:]) for mark in marks if len(mark) > 3), default=0)
        recent = abs(time.time() - newest / 1e9) < RACY  # noqa: TID251 - file times are wall clock times
        found.stamp = None if recent or found.missing else marks
        return found

    def _read(self) -> Loaded:
        now = self._loaded
        new = Loaded()
        for source in self.sources:
            former = {path: now.pairs[path] for path, of in now.sources.items() if of == source}
            found: dict[str, Pair] = {}
            try:
                listed = pair_files([source])
            except CertificateError as error:
                new.problems.append(_with_former(error, former))
                found.update(former)
                listed = []
            else:
                # Gone: between two steps of who replaces it, or for good? At the next look it is for good.
                gone = former.keys() - {files.certificate for files in listed} - now.missing
                new.missing |= gone
                found.update({path: former[path] for path in gone})
                new.problems += [f"{path}: is gone; it is still served" for path in sorted(gone)]
            for files in listed:
                try:
                    found[files.certificate] = self._read_pair(files, former.get(files.certificate))
                except CertificateError as error:
                    kept = former.get(files.certificate)
                    new.problems.append(_with_former(error, kept))
                    if kept:
                        found[files.certificate] = kept
            for path in sorted(found):
                if path not in new.pairs:
                    new.pairs[path], new.sources[path] = found[path], source
        return new

    def _read_pair(self, files: PairFiles, former: Pair | None) -> Pair:
        if former is not None and former.files == files and digest_of(*read_bytes(files)) == former.digest:
            return former
        pair = load_pair(files)
        context_for([pair], minimum=self._minimum, ciphers=self._ciphers)  # would OpenSSL take it?
        return pair

    def _made(self, pairs: dict[str, Pair]) -> _Tables:
        """The tables for these pairs, of contexts that exist where possible."""
        by_name: dict[str, dict[str, Pair]] = {}
        for pair in pairs.values():
            for name in pair.names:
                by_name.setdefault(name, {}).setdefault(pair.kind, pair)
        contexts: dict[tuple[bytes, ...], ssl.SSLContext] = {}

        def context(pairs: Iterable[Pair]) -> ssl.SSLContext:
            wanted = sorted(pairs, key=lambda pair: pair.kind)
            key = tuple(pair.digest for pair in wanted)
            if key not in contexts:
                contexts[key] = self._tables.contexts.get(key) or context_for(
                    wanted, minimum=self._minimum, ciphers=self._ciphers, alpn=self._alpn
                )
            return contexts[key]

        tables = {name: context(pairs.values()) for name, pairs in by_name.items()}
        first = next(iter(pairs.values()))
        return _Tables(
            tables[first.names[0]] if first.names else context([first]),
            {name: found for name, found in tables.items() if not name.startswith("*.")},
            {name[2:]: found for name, found in tables.items() if name.startswith("*.")},
            contexts,
        )


def _with_former(error: Exception, former: object) -> str:
    return f"{error}; the former one is still served" if former else str(error)


def check(
    sources: Sequence[str], *, minimum: str = "1.2", ciphers: str = CIPHERS, hosts: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """
    Open every pair, as ``apigw check`` does; nothing is bound.

    :param hosts: names that clients will use (``*.x`` too): each should have a certificate.
    :returns: ``("error" | "warning", text)``; an error is what makes clients fail or the gateway not start.
    """
    problems = [("error", text) for text in _unknown_ciphers(ciphers)]
    usable = CIPHERS if problems else ciphers
    pairs: list[Pair] = []
    for source in sources:
        try:
            for files in pair_files([source]):
                try:
                    pair = load_pair(files)
                    context_for([pair], minimum=minimum, ciphers=usable)
                except CertificateError as error:
                    problems.append(("error", str(error)))
                else:
                    pairs.append(pair)
                    problems += findings(pair)
        except CertificateError as error:
            problems.append(("error", str(error)))
    owners: dict[tuple[str, str], str] = {}
    for pair in pairs:
        for name in pair.names:
            owner = owners.setdefault((name, pair.kind), pair.files.certificate)
            if owner != pair.files.certificate:
                text = f"{pair.files.certificate}: {name} has a certificate of kind {pair.kind} in {owner} already"
                problems.append(("warning", f"{text}, which is served"))
    covered = {name for name, _ in owners}
    for host in hosts:
        if host not in covered and f"*.{host.partition('.')[2]}" not in covered and pairs:
            problems.append(("warning", f"tls.certificates: none is for {host}; clients will see {_label(pairs[0])}"))
    return problems


def _label(pair: Pair) -> str:
    return f"the one for {', '.join(pair.names[:3])}" if pair.names else f"that of {pair.files.certificate}"


def _unknown_ciphers(ciphers: str) -> list[str]:
    """OpenSSL skips what it doesn't know, as long as one is left: then a slip of the pen would go unseen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    unknown = []
    for name in ciphers.replace(",", ":").replace(" ", ":").split(":"):
        try:
            if not name.startswith(("!", "-")):  # to leave out what this OpenSSL doesn't have is no mistake
                context.set_ciphers(f"{CIPHERS}:{name}" if name.startswith("@") else name.lstrip("+"))
        except ssl.SSLError:
            unknown.append(f"tls.ciphers: OpenSSL knows no {name!r}")
    return unknown
