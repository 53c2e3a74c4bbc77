"""
Where targets come from: one kind of source in each file.

Reading order: ``discovery`` (puts the sources' answers together), ``source`` (what a source is), ``dns``, ``srv``,
``file``, ``http``.

A source that fails keeps its last good answer. Not here: what becomes of the targets (``apigw.upstream.target_set``).
"""
