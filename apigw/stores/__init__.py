"""
State that outlives one exchange: what policies remember and share.

- ``memory``: values and sets that end by themselves.
- ``limits``: how much everybody may still have.

Not here: what is remembered (``apigw.policies``). Stores for several machines stand beside these, behind the same
methods.
"""
