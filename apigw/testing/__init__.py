"""
What tests of the gateway, and of policies and resources written for it, are made with.

- ``plugin``: the pytest plugin. ``async def test_...`` runs on the uvloop reactor, and has a time limit; the fixtures
  ``gateway`` and ``origin`` start what a test asks for, and end it.
- ``gateway``: the whole gateway in the test's process, from the text of a configuration.
- ``origins``: scripted services behind it, and a raw client before it.
- ``policies``: a policy alone, with a clock that the test sets.
- ``trial``: a ``TestCase`` that runs under trial and under pytest alike.

Not here: the project's own tests, which are in ``tests/``.
"""
