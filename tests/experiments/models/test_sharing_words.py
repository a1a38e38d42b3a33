import numpy as np

from experiments.models import sharing_words
from federated.rounds.sharing import ShareRules
from federated.tensors.weights import specs_of

SPECS = specs_of(
    {
        "a/gamma": np.zeros(3, np.float32),
        "a/kernel": np.zeros((2, 5), np.float32),
        "b/gamma": np.zeros(4, np.float32),
        "end/bias": np.zeros((), np.float32),
    }
)


def test_a_site_is_told_how_much_of_the_model_stays_and_where_to_back_it_up():
    stays, received = sharing_words.lines(
        ShareRules(keep=("*/gamma", "b/*"), receive=("end/*",)), SPECS, "site/journal"
    )
    assert stays.startswith("event=arrays_stay arrays=2 values=7 of=18 names=*/gamma,b/*: ")
    assert "never leave this site" in stays and stays.endswith("back up site/journal")
    assert received.startswith("event=arrays_only_received arrays=1 values=1 of=18 names=end/*: ")


def test_without_rules_nothing_is_said():
    assert sharing_words.lines(ShareRules(), SPECS, "site/journal") == []
