import fnmatch

from c2fnas import array_groups
from tests.c2fnas import tiny


def matched(names, network):
    patterns = array_groups.patterns(names)
    return {
        name for name in network.variables if any(fnmatch.fnmatchcase(name, p) for p in patterns)
    }


def test_groups_name_the_weights_of_their_layers():
    network = tiny.build()
    scales = {name for name in network.variables if name.endswith(("/gamma", "/beta"))}
    assert matched(["norms"], network) == scales and "end/first/gamma" in scales
    assert matched(["head"], network) == {"end/classifier/kernel", "end/classifier/bias"}
    assert matched(["vae"], network) == {n for n in network.variables if n.startswith("vae/")}


def test_other_entries_are_patterns_and_each_comes_once():
    found = array_groups.patterns(["norms", "stem/*", "norms", "*/beta"])
    assert found == ("*/gamma", "*/beta", "stem/*")
