"""The examples of docs/tls.md are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apigw.config.kinds import BASE_KINDS
from apigw.config.listen import ListenSettings
from apigw.config.load import load
from apigw.config.upstream import UpstreamSettings
from apigw.net import tls
from apigw.net.certificates import CertificateStore, check
from apigw.net.tls_client import ClientTLS
from tests.certificates import Authority

MANUAL = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()
EXAMPLES = re.findall(r"```ini\n(.*?)```", MANUAL, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = Authority()
    certificates, live = tmp_path / "certificates", tmp_path / "live" / "live.example"
    certificates.mkdir()
    live.mkdir(parents=True)
    authority.write(certificates / "authority.pem")
    authority.issue("shop.example").write_pair(certificates, "shop")
    authority.issue("pay.shop.example").write(certificates / "pay.pem")
    leaf = authority.issue("live.example")
    (live / "fullchain.pem").write_bytes(leaf.chain_pem)
    (live / "privkey.pem").write_bytes(leaf.key_pem())
    return tmp_path


@pytest.mark.parametrize("ini", EXAMPLES, ids=range(len(EXAMPLES)))
def test_each_example_is_served_or_dialled_with(folder: Path, ini: str) -> None:
    (folder / "gw.ini").write_text(ini)
    configuration = load(folder / "gw.ini", BASE_KINDS)
    done = 0
    for settings in configuration.sections.get("listen", {}).values():
        assert isinstance(settings, ListenSettings)
        assert settings.tls is not None
        sources = list(settings.tls.certificates)
        assert check(sources, minimum=settings.tls.minimum) == []
        assert "pay.shop.example" in CertificateStore(sources, minimum=settings.tls.minimum).names
        done += 1
    for settings in configuration.sections.get("upstream", {}).values():
        assert isinstance(settings, UpstreamSettings)
        assert settings.tls.certificate is not None
        made = ClientTLS(
            ca=str(settings.tls.ca), certificate=settings.tls.certificate, server_name=settings.tls.server_name
        )
        assert made.server_name == "orders.internal"
        done += 1
    assert done == 1


def test_each_reason_of_the_table_is_the_codes_and_the_other_way_round() -> None:
    reasons = set(re.findall(r"^\| `(\w+)` \|", MANUAL, re.MULTILINE))
    assert tls.HandshakeFailure.__doc__ is not None
    assert reasons == set(re.findall(r"``(\w+)``", tls.HandshakeFailure.__doc__.partition(":ivar detail")[0]))
    code = Path(tls.__file__).read_text()
    assert all(f'("{reason}"' in code for reason in reasons)
