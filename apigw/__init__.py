"""
apigw: an API gateway on Twisted and uvloop, configured by one INI file.

The way of a request, and the room where each step lives::

    client                                                                                     service
      |                                                                                           ^
      v        net            http            downstream        routing      policies      upstream
    socket -> listener -> h1 parsing -> channel, exchange -> resource tree -> in order -> cluster, pool, connection
              tls          (bytes->events)                   one look-up
      ^                                                             |
      |                                                             +--> or aggregation / graphql over upstreams
      +--------------- the same rooms, backwards; every exchange, whatever became of it, ends in the access log ------

What is passed on is in ``exchange``, what was asked for in ``config``; ``gateway`` puts all rooms together, ``tap`` and
``cli`` are what twistd and a person call.
"""
