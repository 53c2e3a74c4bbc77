"""
Looking in: the admin listener, a small twisted.web site of its own for operators, Prometheus and probes.

Reading order: ``views`` (what is shown), ``access`` (who may see it), ``site``, ``index``.

Not here: where the numbers and states come from; the gateway hands them in as ``views.Views``. The client's side of
health checks is ``apigw.observability.health``.
"""
