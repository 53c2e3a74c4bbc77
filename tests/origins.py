"""Scripted origins and a raw client: what users test with, too."""

from apigw.testing.origins import *  # noqa: F403
