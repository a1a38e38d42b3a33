"""The server of a federation on one machine: where its sites find it."""

import pytest

from experiments.run import local_server
from runkit import atomic
from tests.experiments.studies.small_study import FakePrograms


def test_the_sites_get_the_port_of_this_start_and_not_of_an_earlier_one(tmp_path):
    atomic.write_json(tmp_path / "store" / "address.json", {"port": 7})
    group = FakePrograms()
    _, server = local_server.start(group, tmp_path / "kits", tmp_path / "store", 3, ["--seed=1"])
    assert server == "--server=localhost:1"
    flags = group.flags["serve server"]
    assert (flags["min_num_clients"], flags["max_num_clients"]) == ("3", "3")
    assert (flags["port"], flags["kit"], flags["seed"]) == ("0", f"{tmp_path}/kits/server", "1")


def test_a_server_that_leaves_no_address_is_waited_for(tmp_path):
    class Silent(FakePrograms):
        def start(self, name, module, arguments, *, log=None):
            return name

    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "address.json").write_text('{"port": 7}')
    with pytest.raises(AssertionError):
        local_server.start(Silent(), tmp_path / "kits", tmp_path / "store", 2, [])
