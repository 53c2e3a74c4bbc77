"""pytest's set-up for all tests: how async tests run is ``apigw/testing/plugin.py``."""

pytest_plugins = ["apigw.testing.plugin"]
