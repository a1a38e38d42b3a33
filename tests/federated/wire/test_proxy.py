import grpc
import pytest

from federated.wire import addresses
from federated.wire import proxy as wire_proxy
from tests.federated.proxy import http_proxy

HOST = "fl.study.invalid"  # known to a proxy alone


PROXY = "http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("host", "environ", "used"),
    [
        (HOST, {"https_proxy": PROXY}, "https_proxy"),
        (HOST, {"https_proxy": PROXY + "/"}, "https_proxy"),
        (HOST, {"http_proxy": PROXY}, "http_proxy"),
        (HOST, {"grpc_proxy": PROXY, "https_proxy": "http://127.0.0.1:1"}, "grpc_proxy"),
        (HOST, {"https_proxy": "http://us%40er:p%3Ass@127.0.0.1:{port}"}, "https_proxy"),
        (HOST, {"grpc_proxy": "", "https_proxy": PROXY}, None),
        (HOST, {"https_proxy": "https://127.0.0.1:{port}", "http_proxy": PROXY}, None),
        (HOST, {"https_proxy": "127.0.0.1:{port}"}, None),
        (HOST, {"https_proxy": "localhost:{port}"}, None),
        (HOST, {"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY}, None),
        (HOST, {"https_proxy": PROXY, "no_proxy": "study.invalid"}, None),
        (HOST, {"https_proxy": PROXY, "no_proxy": "localhost, .STUDY.invalid"}, None),
        (HOST, {"https_proxy": PROXY, "no_proxy": "udy.invalid"}, None),
        (HOST, {"https_proxy": PROXY, "no_proxy": "*"}, "https_proxy"),
        (HOST, {"https_proxy": PROXY, "no_proxy": "*.study.invalid"}, "https_proxy"),
        (HOST, {"https_proxy": PROXY, "no_proxy": "other.invalid,"}, "https_proxy"),
        (HOST, {"https_proxy": PROXY, "no_grpc_proxy": "", "no_proxy": HOST}, "https_proxy"),
        (HOST, {"https_proxy": PROXY, "no_grpc_proxy": HOST}, None),
        ("192.0.2.1", {"https_proxy": PROXY, "no_proxy": "192.0.2.0/24"}, None),
        ("192.0.2.1", {"https_proxy": PROXY, "no_proxy": "192.0.3.0/24"}, "https_proxy"),
        ("[2001:db8::1]", {"https_proxy": PROXY}, "https_proxy"),
        ("localhost", {"https_proxy": PROXY}, None),
        ("127.0.0.2", {"https_proxy": PROXY}, None),
        ("[::1]", {"grpc_proxy": PROXY}, None),
    ],
)
def test_an_endpoint_uses_the_proxy_that_grpc_uses(host, environ, used, monkeypatch):
    """The reference is gRPC itself: whether the proxy sees its call, and with which credentials."""
    with http_proxy(1) as proxy:
        environ = {name: value.format(port=proxy.port) for name, value in environ.items()}
        for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "no_grpc_proxy"):
            for spelling in (name, name.upper()):
                monkeypatch.delenv(spelling, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        target = addresses.joined(host, 8443)
        with (
            grpc.insecure_channel(target, options=wire_proxy.channel_options(host)) as channel,
            pytest.raises(grpc.RpcError),
        ):
            channel.unary_unary("/a/b")(b"", timeout=2.0)
        asked = list(proxy.requests)
        path = wire_proxy.ServerEndpoint(host, 8443, environ, timeout_s=2.0)
        assert (path.proxy.variable if path.proxy else None) == used == (used if asked else None)
        assert bool(path.passed_over) == (not used and bool(environ.get("grpc_proxy", "set")))
        if used:
            with pytest.raises(wire_proxy.ProxyRefused), path.connected():
                pass
            lines = [
                {line for line in head.splitlines() if not line.startswith("User-Agent")}
                for head in (asked[0], proxy.requests[-1])
            ]
            assert {
                line.replace("Proxy-Authorization:Basic", "Proxy-Authorization: Basic")
                for line in lines[0]
            } == lines[1]
