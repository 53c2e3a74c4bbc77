"""
Answers by itself; nothing behind it is asked.

    [respond maintenance]
    status = 503
    file = back-soon.html
    header.Retry-After = 600

Not here: a route that is nothing but an answer (its own ``respond``), redirects (``redirect``).
"""

from __future__ import annotations

import mimetypes
from typing import Annotated

from pydantic import Field, model_validator

from apigw.config import files
from apigw.config.text import Wrong
from apigw.config.values import Count, FilePath, Word
from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.http.fields import is_field_value, is_token
from apigw.policies.header_edits import UNTOUCHABLE
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.templates import TemplateText


class Settings(PolicySettings):
    """An answer is given here; nothing behind it is asked."""

    status: Annotated[Count, Field(ge=200, le=599)] = 200
    """The status."""
    text: str = ""
    """The content."""
    file: FilePath | None = None
    """A file with the content, read once."""
    content_type: Word | None = None
    """What the content is; by default told from the file's name, or from how the text begins."""
    header: dict[str, TemplateText] = Field({})
    """Further fields by name."""

    @model_validator(mode="after")
    def _one_content(self) -> Settings:
        if self.text and self.file:
            raise Wrong("the content is text or a file, not both", option="file")
        if self.status in {204, 205, 304} and (self.text or self.file):
            raise Wrong(f"a {self.status} has no content", option="status")
        if self.content_type is not None and not is_field_value(self.content_type.encode()):
            raise Wrong("this can't stand in a header", option="content_type")
        for name in self.header:
            if not is_token(name.encode()) or name.lower().encode() in UNTOUCHABLE:
                raise Wrong(f"`{name}` is no header that can be set", option=f"header.{name}")
        return self


class Respond(Policy[Settings]):
    """The policy ``respond``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._content = settings.text.encode()
        kind = settings.content_type or ""
        if settings.file is not None:
            try:
                self._content = files.read(settings.file)
            except OSError as error:
                raise ValueError(f"{settings.file} can't be read: {error.strerror}") from None
            kind = kind or mimetypes.guess_type(settings.file.name)[0] or "application/octet-stream"
            kind += "; charset=utf-8" if kind.startswith("text/") and "charset" not in kind else ""
        kind = kind or ("application/json" if settings.text[:1] in {"{", "["} else "text/plain; charset=utf-8")
        self._fields = [(b"Content-Type", kind.encode())] if self._content else []
        self._templates = [(name.encode(), template) for name, template in settings.header.items()]

    def on_request(self, request: Request) -> Response | None:
        headers = Headers(self._fields)
        for name, template in self._templates:
            value = template.render(request)
            if value is not None:
                headers.add(name, value)
        return Response(self.settings.status, headers, self._content)
