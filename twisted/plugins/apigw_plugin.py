"""The command ``apigw`` of twistd, and the reactor ``uvloop``. Every twistd command imports this file."""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

gateway = ServiceMaker("apigw", "apigw.tap", "API gateway: one INI file, one reactor.", "apigw")
uvloop = Reactor("uvloop", "apigw.net.reactor", "Twisted's asyncio reactor on uvloop.")
