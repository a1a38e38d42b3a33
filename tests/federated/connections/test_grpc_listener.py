import pytest

from federated.connections import grpc_listener


def test_the_server_raises_its_limit_of_open_files_where_it_may():
    resource = pytest.importorskip("resource")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        assert grpc_listener.make_room(300) == (
            300 if hard == resource.RLIM_INFINITY or hard >= 812 else max(hard - 512, hard // 3)
        )
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == (
            812 if hard == resource.RLIM_INFINITY else min(812, hard)
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_where_few_files_may_be_open_there_are_fewer_places_for_connections(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (240, 240))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: None)
    assert grpc_listener.make_room(300) == 80
