"""
Towards the service: choose a target, get a connection, send, receive, give back; and what to do when that fails.

Reading order: ``forward`` (START HERE), ``cluster``, ``target_set`` (who may be asked), ``attempt`` (one try),
``balancing``, ``outlier``, ``health``, ``breaker``, ``retries``, ``hedging``, ``fallback``, ``discovery``; then
``pool``, ``connection``, ``dialling``; ``client`` is treq's interface to all of it. ``settings`` has the options.

Files that decide are pure: no sockets, no timers, ``now`` is passed in. Not here: routes and policies.
"""
