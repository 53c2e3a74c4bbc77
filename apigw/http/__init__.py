"""
HTTP without sockets: bytes in, facts out, and the other way. Nothing here imports a reactor or a loop.

Reading order: ``fields`` (field lines), ``h1_heads`` (request and response heads), ``chunked`` (framing of content),
``targets`` (request targets and hosts), ``forwarded`` (what is said of the client towards services).

Not here: connections (``apigw.downstream``, ``apigw.upstream``).
"""
