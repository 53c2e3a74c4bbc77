"""
Choosing a target: one way in each file, all with the interface of ``balancer``.

Reading order: ``balancer``, ``round_robin``, ``random``, ``least_request``, ``ewma``, ``hashing``, ``sticky``.

A balancer knows nothing of health: it chooses from the targets that ``apigw.upstream.target_set`` holds eligible.
Pure: no clock, no I/O; randomness comes in by constructor.
"""
