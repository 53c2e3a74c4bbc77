"""The page at ``/`` that says what there is, for a person or for a program."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

PAGES = {
    "/metrics": "numbers, for Prometheus",
    "/routes": "every route, in the order of choice",
    "/upstreams": "every upstream, its targets and how they are",
    "/config/status": "which configuration is in force, and why a later one is not",
    "/health/live": "200 as long as the process answers",
    "/health/ready": "200, or 503 while the gateway starts or drains",
}


def index_document(actions: Iterable[str]) -> dict[str, object]:
    """What there is, as JSON."""
    return {"pages": PAGES, "actions": [f"/{name}" for name in sorted(actions)]}


def index_page(actions: Iterable[str]) -> str:
    """What there is, as HTML."""
    rows = [f'<tr><td><a href="{path}">{path}</a></td><td>{escape(what)}</td></tr>' for path, what in PAGES.items()]
    rows += [f"<tr><td>POST /{escape(name)}</td><td>needs the token</td></tr>" for name in sorted(actions)]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>apigw</title>\n'
        "<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem}"
        "td{padding:.2rem 1.5rem .2rem 0}:root{color-scheme:light dark}</style>\n"
        "<h1>apigw</h1>\n<table>\n" + "\n".join(rows) + "\n</table>\n</html>\n"
    )
