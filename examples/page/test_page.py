"""How a test looks that trial runs (``trial examples.page``), and pytest as well."""

from __future__ import annotations

from pathlib import Path

from apigw.testing.gateway import running
from apigw.testing.trial import TestCase

CONFIGURATION = """
    [resource greeting]
    path = /greeting
    class = examples.page.page:Greeting
"""


class GreetingTests(TestCase):
    """Tests, set-ups and clean-ups may be coroutines, or return Deferreds."""

    async def test_a_name_is_greeted(self) -> None:
        async with running(Path(self.mktemp()), CONFIGURATION) as gateway:
            response = await gateway.get("/greeting/anna")
            assert (response.status, response.body) == (200, b"Hello, anna")
            assert (await gateway.get("/greeting")).body == b"Hello, world"
