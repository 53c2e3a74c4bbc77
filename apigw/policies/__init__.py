"""
What may come in, and what is changed on the way: one file a policy, named as in the configuration.

Reading order: ``policy`` (what a policy is), ``catalogue`` (which there are), then whichever policy you need.
Files that are not policies themselves: ``consumers`` and ``revocation`` (sections that policies ask), ``bearer``,
``key_sets`` and ``tokens`` (what more than one way to authenticate needs).

Policies do not know each other, nor the other rooms: what they need comes in their ``Environment``.

Not here: how policies are put around a responder (``apigw.exchange.responder``), and who builds them
(``apigw.gateway``).
"""
