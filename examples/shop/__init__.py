"""
A small shop: three services for the gateway to stand in front of.

- ``data``: users, orders and products, which refer to each other.
- ``resources``: what all services share: JSON, problems, and pages that show the gateway at work.
- ``services``: the three services; ``python -m examples.shop.services`` runs all on one reactor.
- ``python -m examples.shop`` (``make run``): the services as processes, and the gateway on conf/gw.ini before them.
"""
