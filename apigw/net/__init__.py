"""
Sockets without HTTP: the reactor, listening, TLS, the PROXY protocol, what systemd is told.

Reading order: ``reactor``, ``listeners``, ``proxy_protocol``, ``systemd``.

Not here: what the bytes mean (``apigw.http``), and whose connection it is (``apigw.downstream``, ``apigw.upstream``).
"""
