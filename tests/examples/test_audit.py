"""The example of docs/extending.md has tests of its own."""

from examples.audit.test_audit import *  # noqa: F403
