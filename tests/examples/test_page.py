"""The example of docs/extending.md has tests of its own."""

from examples.page.test_page import GreetingTests

__all__ = ["GreetingTests"]
