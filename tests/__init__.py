"""
The project's tests. A room of ``apigw`` has its folder here; ``live`` starts processes.

Generated examples are the same on every machine, and have no time limit: what fails in continuous integration fails at
home too. ``HYPOTHESIS_PROFILE=explore pytest -m hypothesis`` looks for new ones; what it finds becomes an ``@example``.
"""

import os

from hypothesis import settings

# trial imports this package first: so plain ``trial tests`` runs on the reactor that the gateway runs on.
from apigw.net.reactor import ensure

ensure()
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
