"""What a policy gets from the gateway, scripted: what users test with, too."""

from apigw.testing.policies import *  # noqa: F403
