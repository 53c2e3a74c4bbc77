"""``python -m apigw``: the same as ``apigw``."""

from apigw.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
