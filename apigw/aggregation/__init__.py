"""
One request of a client, several to services (BFF).

- ``aggregate``: ``[aggregate NAME]``. START HERE: it names the files in the order in which a request meets them.
- ``python_class``: the same as an ``async def`` of the user's own; ``gather`` is for it.
- ``batch``: ``[batch NAME]``, an array of requests in one.

Not here: upstreams. Their clients are handed in, by name.
"""

from apigw.aggregation.python_class import gather

__all__ = ["gather"]
