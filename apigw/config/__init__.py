"""
What was asked for: INI text becomes frozen, typed settings, or all of its mistakes at once, each with file and line.

Reading order: ``reader`` (text to sections), ``values`` and ``addresses`` (text to values), ``model`` (what a settings
class may say), the sections (``gateway``, ``listen``, ``upstream``, ``route``), ``kinds`` (which sections there are),
``binding`` (section to settings), ``configuration`` (the whole), ``load`` (START HERE).

Not here: what runs. Objects are built from settings in ``apigw.gateway``; they are never the settings themselves.
"""
