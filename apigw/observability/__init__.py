"""
What happened, and how it goes: access log, metrics, reactor lag, the log for people, the health answer.

Reading order: ``redaction``, ``log_file``, ``access_log``; ``instruments``, ``metrics``, ``exposition``; then
``reactor_lag``, ``logs``, ``health``.

Not here: the admin listener that shows it (``apigw.admin``), and who calls what when (``apigw.gateway``).
"""
