"""docs/observability.md says what the gateway does."""

import re
from pathlib import Path

from apigw.admin.index import PAGES
from apigw.observability import instruments
from apigw.observability.redaction import SECRET_PARAMETERS

MANUAL = (Path(__file__).parents[2] / "docs/observability.md").read_text("utf-8")


def test_every_metric_stands_in_the_manual_with_its_kind_and_labels() -> None:
    rows = re.findall(r"^\| `(apigw_\w+)` \| (\w+) \| ([^|]*)\|", MANUAL, re.MULTILINE)
    told = {(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert told == {(each.name, each.kind, each.labels) for each in instruments.ALL}


def test_every_instrument_is_in_the_list() -> None:
    declared = {value for value in vars(instruments).values() if isinstance(value, instruments.Instrument)}
    assert declared == set(instruments.ALL)


def test_every_masked_parameter_stands_in_the_manual() -> None:
    masked = MANUAL.partition("### What is never logged")[2].partition("## Metrics")[0]
    assert set(re.findall(r"`(\w+)`", masked)) >= SECRET_PARAMETERS


def test_every_admin_page_stands_in_the_manual() -> None:
    pages = re.findall(r"^\| `(/[\w/]*)` \|", MANUAL, re.MULTILINE)
    assert set(pages) == {"/", *PAGES}
