"""
Which route is this request's, and where does its path lead.

Reading order: ``patterns`` and ``rule`` (what a route may ask for), ``table`` (one look-up in all of them), ``trace``
(why a request gets which route), ``target_path`` (the path that the service is asked for), ``response_rewriting`` (the
way back), ``tree`` (the twisted.web resource tree that serves it all), ``twisted_request`` (the same tree under a
stock twisted.web Site).

Not here: what answers (``apigw.upstream`` and others), the settings of a route (``apigw.gateway``).
"""
