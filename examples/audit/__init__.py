"""A policy of one's own, with its tests: docs/extending.md explains it."""
