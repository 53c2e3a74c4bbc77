"""
The benchmark: the gateway and its peers, each on one core, in one run (``make bench``, or ``python -m bench``).

Reading order: ``cases`` (what is measured), ``gateways`` (how each is set up), ``origin``, ``load``, ``measures``,
``report``. Absolute figures depend on the machine; what counts are ratios within one run.

Not here: the numbers. They are in docs/performance.md.
"""
