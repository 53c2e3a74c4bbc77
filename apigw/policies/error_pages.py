"""
Shows errors as the client can read them: a page for browsers, text for terminals, a problem document for programs.

    [error_pages friendly]
    html = pages/error.html
    page.404 = pages/not-found.html
    page.5xx = pages/sorry.html

``html`` and ``text`` are pages for any error; ``page.STATUS`` (``404``, ``5xx``) is one for some, in its type.
``url = http://pages.internal/{status}.html`` has a service make it. In pages and ``url``, ``{status}``, ``{title}``,
``{detail}``, ``{reason}`` and ``{request_id}`` are filled in. ``services = yes`` does the same with errors of services.

Put it first in a route's list: it sees what comes from behind it.

Not here: which errors there are (docs/errors.md).
"""

from __future__ import annotations

import html
import mimetypes
import re
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import Field, model_validator

from apigw.config import files
from apigw.config.text import Wrong
from apigw.config.values import FilePath, Flag, StatusSet, Word
from apigw.exchange.errors import ClientGone, GatewayError
from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.json_text import show, string
from apigw.policies.accept import best_media_type
from apigw.policies.policy import Environment, Policy, PolicySettings

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{status} {title}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;margin:15vh auto;max-width:36em;padding:0 1em;color:#222}
small{color:#777}</style>
<h1>{status} {title}</h1><p>{detail}</p><p><small>Request {request_id}</small></p></html>
"""
_TEXT = "{status} {title}\n{detail}\nRequest {request_id}\n"

_PLACES = re.compile(r"\{(status|title|detail|reason|request_id)\}")
_STATUS = re.compile(r"[45][0-9][0-9]|[45]xx")


class Settings(PolicySettings):
    """Errors are shown as the client can read them."""

    statuses: StatusSet = Field(frozenset(range(400, 600)))
    """Which errors."""
    services: Flag = False
    """Whether errors that services answer get a page too."""
    html: FilePath | None = None
    """The page for browsers; there is a plain one."""
    text: FilePath | None = None
    """The same for who wants plain text."""
    page: dict[str, FilePath] = Field({})
    """The page for a status (``404``) or for a hundred of them (``5xx``)."""
    url: Word | None = None
    """A service that makes the page for browsers."""

    @model_validator(mode="after")
    def _pages(self) -> Settings:
        for name in self.page:
            if not _STATUS.fullmatch(name):
                raise Wrong(f"`{name}` is not the status of an error", "page.404 or page.5xx", option=f"page.{name}")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise Wrong("this is no URL of a service", "http://host/{status}.html", option="url")
        return self


class ErrorPages(Policy[Settings]):
    """The policy ``error_pages``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._general = {
            b"application/problem+json": "",
            b"text/html": _read(settings.html) if settings.html else _PAGE,
            b"text/plain": _read(settings.text) if settings.text else _TEXT,
        }
        self._pages = {
            status: (mimetypes.guess_type(path.name)[0] or "text/html", _read(path))
            for status, path in settings.page.items()
        }

    def on_response(self, request: Request, response: Response) -> Any:
        error = response.error
        status = response.status
        if self.in_shadow or status not in self.settings.statuses or isinstance(error, ClientGone):
            return response
        if error is None and not self.settings.services:
            return response
        kind, page = self._page(request, status)
        if kind == b"application/problem+json" and (error is not None or _is_json(response)):
            response.add_header(b"Vary", b"Accept")
            return response
        facts = _facts(request, status, error)
        if self.settings.url is not None and kind == b"text/html":
            return self._fetched(request, response, facts, page)
        return _shown(response, kind, _filled(page, kind, facts))

    def _page(self, request: Request, status: int) -> tuple[bytes, str]:
        offered = dict(self._general)
        special = self._pages.get(str(status)) or self._pages.get(f"{status // 100}xx")
        if special is not None:
            offered[special[0].encode()] = special[1]
        # Who wants JSON can read a problem document.
        offered.setdefault(b"application/json", "")
        kind = best_media_type(request.headers.joined(b"accept"), list(offered))
        if kind == b"application/json" and not offered[kind]:
            kind = b"application/problem+json"
        return kind, offered[kind]

    async def _fetched(self, request: Request, response: Response, facts: dict[str, str], page: str) -> Response:
        url = _PLACES.sub(lambda found: quote(facts[found[1]], safe=""), self.settings.url or "")
        try:
            fetched = await self.environment.fetch("GET", url)
        except GatewayError as error:
            self.environment.count("page_unavailable")
            self.environment.log.warn("{policy}: no page from {url}: {error}", policy=self.environment.label, url=url,
                                      error=error.reason)  # fmt: skip
        else:
            if fetched.status == 200:
                return _shown(response, fetched.headers.get(b"content-type") or b"text/html", fetched.body)
            self.environment.count("page_unavailable")
        return _shown(response, b"text/html", _filled(page, b"text/html", facts))


def _read(path: Path) -> str:
    try:
        return files.read(path).decode()
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} can't be read as text: {error}") from None


def _facts(request: Request, status: int, error: GatewayError | None) -> dict[str, str]:
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    return {
        "status": str(status),
        "title": title,
        "detail": error.detail if error is not None else "",
        "reason": error.reason if error is not None else "",
        "request_id": request.id.decode("latin-1"),
    }


def _filled(page: str, kind: bytes, facts: dict[str, str]) -> bytes:
    if not page:
        return show(
            {"type": "about:blank", "title": facts["title"], "status": int(facts["status"]),
             "request_id": facts["request_id"]}
        ).encode()  # fmt: skip
    if kind.startswith(b"text/") and kind not in {b"text/html", b"text/xml"}:
        escape: Callable[[str], str] = str
    elif kind.endswith((b"json", b"javascript")):
        escape = _in_json
    else:
        escape = html.escape
    return _PLACES.sub(lambda found: escape(facts[found[1]]), page).encode()


def _in_json(text: str) -> str:
    return string(text)[1:-1]


def _is_json(response: Response) -> bool:
    kind = (response.headers.get(b"content-type") or b"").partition(b";")[0].strip().lower()
    return kind == b"application/json" or kind.endswith(b"+json")


_OF_THE_BODY = frozenset(
    b"content-type content-length content-encoding content-language etag last-modified accept-ranges content-range"
    b" content-md5 digest content-digest repr-digest".split()
)


def _shown(response: Response, kind: bytes, content: bytes) -> Response:
    """The response with another content; what it says beside its content (Retry-After, WWW-Authenticate) stays."""
    response.discard()
    kept = [pair for pair in response.headers.pairs if pair[0].lower() not in _OF_THE_BODY]
    if kind.startswith(b"text/") and b"charset" not in kind:
        kind += b"; charset=utf-8"
    response.headers = Headers([*kept, (b"Content-Type", kind), (b"Vary", b"Accept")])
    response.lines = None
    response.body = content
    return response
