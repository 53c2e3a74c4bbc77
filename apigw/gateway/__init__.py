"""
Where the rooms are put together: the only place that knows them all.

Reading order: ``catalogue`` (what sections there are), ``build`` (settings to objects), ``service`` (start, reload,
drain).
"""
