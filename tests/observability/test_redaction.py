"""Credentials in URLs do not reach a log."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.observability.redaction import LONGEST_NAME, MOST_PARAMETERS, query_redactor, url_redactor

redact = query_redactor()
redact_url = url_redactor(redact)


@pytest.mark.parametrize(
    ("query", "logged"),
    [
        (b"access_token=abc", b"access_token=***"),
        (b"a=1&token=abc&b=2", b"a=1&token=***&b=2"),
        (b"a=1;api_key=abc", b"a=1;api_key=***"),
        (b"API-KEY=abc", b"API-KEY=***"),
        (b"X-Amz-Signature=abc&X-Amz-Date=1", b"X-Amz-Signature=***&X-Amz-Date=1"),
        (b"csrfToken=abc", b"csrfToken=***"),
        (b"user%5Bnew_password%5D=abc", b"user%5Bnew_password%5D=***"),
        (b"t%6Fken=abc", b"t%6Fken=***"),
        (b"token=a=b", b"token=***"),
        (b"code=4/abc&state=x", b"code=***&state=x"),
        (b"password=a&password=b", b"password=***&password=***"),
        (b"token", b"token"),
        (b"token=", b"token="),
        (b"q=token", b"q=token"),
        (b"postcode=12345&keyword=x&author=y&page=2", b"postcode=12345&keyword=x&author=y&page=2"),
        (b"", b""),
        (b"%zz=1&\xff=2&key=3", b"%zz=1&\xff=2&key=***"),
    ],
)
def test_values_of_secret_parameters_are_masked_and_nothing_else(query: bytes, logged: bytes) -> None:
    assert redact(query) == logged


@pytest.mark.parametrize("separator", [b"&", b";"])
def test_of_very_many_parameters_the_rest_is_masked(separator: bytes) -> None:
    few = separator.join([b"a=1"] * MOST_PARAMETERS)
    assert redact(few) == few
    assert redact(few + separator + b"token=x" + separator + b"b=2") == few + separator + b"***"
    assert redact(b"token=x" + separator + few + b"&" + few) == b"token=***" + few[3:] + separator + b"***"


def test_the_value_of_a_very_long_name_is_masked() -> None:
    name = b"%61" * LONGEST_NAME
    assert redact(name + b"=1&a=2") == name + b"=***&a=2"


@pytest.mark.parametrize(
    "query",
    [
        b"&".join(b"%x=b" % number for number in range(900)),
        b";".join(b"%x=b" % number for number in range(900)),
        b"%22" * 2700 + b"=1",
    ],
)
def test_the_work_for_one_query_is_bounded(query: bytes) -> None:
    calls = 0

    def counting(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += "call" in event

    sys.setprofile(counting)
    try:
        redact(query)
    finally:
        sys.setprofile(None)
    assert calls < 30 * MOST_PARAMETERS


def test_further_names_can_be_given() -> None:
    also = query_redactor(["Customer-No"])
    assert also(b"customer_no=12&token=x&n=1") == b"customer_no=***&token=***&n=1"


@pytest.mark.parametrize(
    ("url", "logged"),
    [
        (b"https://shop.example/cart?token=abc&p=1", b"https://shop.example/cart?token=***&p=1"),
        (b"https://ann:pw@shop.example/", b"https://***@shop.example/"),
        (b"https://shop.example/cb#access_token=abc", b"https://shop.example/cb#access_token=***"),
        (b"https://shop.example/@ann", b"https://shop.example/@ann"),
        (b"no url at all", b"no url at all"),
    ],
)
def test_urls_lose_their_credentials(url: bytes, logged: bytes) -> None:
    assert redact_url(url) == logged


@given(st.lists(st.tuples(st.sampled_from([b"a", b"token", b"API_key", b"q"]), st.binary(max_size=8)), max_size=6))
def test_no_secret_value_survives_whatever_stands_around_it(parameters: list[tuple[bytes, bytes]]) -> None:
    clean = [(name, value.translate(None, b"&;=#?%+")) for name, value in parameters]
    logged = redact(b"&".join(name + b"=" + value for name, value in clean))
    expected = [name + b"=" + (value if name in {b"a", b"q"} or not value else b"***") for name, value in clean]
    assert logged == b"&".join(expected)
