"""
What is passed on between rooms: one request, one response, and the contract that answers the one with the other.

Reading order: ``headers``, ``body``, ``request``, ``response``, ``errors``, ``responder``.

Not here: bytes on the wire (``apigw.http``), sockets (``apigw.net``), configuration (``apigw.config``).
"""
