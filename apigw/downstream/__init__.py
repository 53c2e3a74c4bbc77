"""
Towards the client: connections that we accept, from the first byte to the access log.

Reading order: ``site`` (what all connections of a listener share), ``h1_requests``,
``h1_responses``, ``h1_channel`` (one HTTP/1 connection: reading, writing, and its life).

Not here: what answers a request (``apigw.routing``), sockets and TLS (``apigw.net``).
"""
