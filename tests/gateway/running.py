"""The whole gateway in this process, as users test with it; and parts of configurations."""

import textwrap

from apigw.testing.gateway import *  # noqa: F403


def upstream(port: int, name: str = "a", more: str = "") -> str:
    """An upstream with one target on this machine."""
    return f"\n[upstream {name}]\ntargets = http://127.0.0.1:{port}\n{textwrap.dedent(more)}\n"


def route(path: str, *options: str, name: str = "a", to: str = "a") -> str:
    """A route; without a redirect or an answer among its options it goes to the upstream ``to``."""
    elsewhere = any(option.startswith(("redirect", "respond")) for option in options)
    return "\n".join([f"\n[route {name}]", f"path = {path}", *options, "" if elsewhere else f"upstream = {to}", ""])
