import socket

from runkit import service_manager


def test_a_service_manager_hears_the_state(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        assert service_manager.notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert listener.recv(100) == b"READY=1"


def test_without_a_service_manager_nothing_happens(tmp_path):
    assert not service_manager.notify("READY=1", {})
    assert not service_manager.notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
