"""A resource of twisted.web that ``[resource greeting]`` mounts."""

from __future__ import annotations

from twisted.web.resource import Resource
from twisted.web.server import Request


class Greeting(Resource):
    """Greets whoever stands in the path: ``/greeting/anna``."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        """``postpath`` is what follows the path of the section."""
        name = b"/".join(request.postpath or [])
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return b"Hello, " + (name or b"world")
