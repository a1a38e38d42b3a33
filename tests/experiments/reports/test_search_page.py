"""The page of a search says what was scored, what it cost and what the evidence is."""

import dataclasses
import html.parser

import pytest

from c2fnas import genotype
from experiments.reports import search_page
from experiments.reports.search_page import StageResult
from experiments.results.verdicts.search_claims import SEARCH_CLAIMS
from tests.experiments.results.test_search_table import FOUND

PUBLISHED = genotype.load("c2fnas").with_size(filters=4)
STAGE = StageResult(
    "topology",
    [dataclasses.replace(one, by_site={"C1": one.score, "C2": one.score / 2}) for one in FOUND],
    10,
    {"evolution": PUBLISHED},
    (32, 32, 32),
    shared_seconds=7195.0,
)
EVIDENCE = {
    "seconds": 3600.0,
    "finished": False,
    "trainings": {"done": 3, "planned": 9},
    "noise": {"seeds": 6, "mean": 50.0, "deviation": 2.0, "low": 1.2, "high": 4.9, "apart": 7.3},
    "ranks": {
        "tau": 0.4,
        "low": -0.1,
        "high": 0.8,
        "seeds": 3,
        "supernet": {"a": 0.5, "b": 0.4},
        "alone": {"a": [0.6, 0.7, 0.6], "b": [0.5, 0.3, 0.4]},
    },
    "networks": {"published": {"genotype": "c2fnas", "scores": {"1": 0.5, "2": 0.6}}},
    "verdicts": [
        {
            **dataclasses.asdict(SEARCH_CLAIMS[0]),
            "verdict": "undecided",
            "interval": {"estimate": 1.25, "low": -3.0, "high": 5.5, "count": 20},
            "p": 0.3,
            "p_holm": 0.9,
            "by_seed": {},
            "detectable": 6.0,
            "remark": "",
        },
        {
            **dataclasses.asdict(SEARCH_CLAIMS[3]),
            "verdict": "not measured",
            "interval": None,
            "p": None,
            "p_holm": None,
            "by_seed": {},
            "detectable": None,
            "remark": "2 paths with 3 seeds",
        },
    ],
}


class Reader(html.parser.HTMLParser):
    """The text of a page and its pictures' alternative texts; fails if the page loads anything."""

    def __init__(self):
        super().__init__()
        self.words, self.pictures = [], []

    def handle_data(self, data):
        self.words.append(data)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert tag not in ("script", "link", "a")
        if tag == "img":
            assert found["src"].startswith("data:image/png;base64,")
            self.pictures.append(found["alt"])


def read(*arguments, **named):
    reader = Reader()
    reader.feed(search_page.page(*arguments, title="A search", cores=2, **named))
    return " ".join(" ".join(reader.words).split()), reader.pictures


def test_a_search_that_goes_on_says_how_far_it_is_and_what_will_be_asked():
    words, pictures = read([STAGE])
    assert "The search is still running: 5 of 10." in words
    assert all(claim.claim in words for claim in SEARCH_CLAIMS)
    assert "The evidence has not been run yet" in words
    assert [text.split()[0] for text in pictures] == ["Dice", "Scores", "The"]
    # best of evolution: number 3, 60 points, at C1 60 and at C2 30
    assert "evolution n3 60.0 60.0 30.0 4 3" in words
    assert "evolution 1 2 45.0 50.0 2 one per cluster" in words


def test_the_cost_is_in_cpu_hours_beside_that_of_c2fnas():
    words, _ = read([STAGE], EVIDENCE)
    # 5 candidates of a second, a supernet of 7195 s and evidence of an hour, on two cores
    assert "6 CPU-hours, on 2 cores" in words and "333 GPU-days of C2FNAS" in words
    # programs that shared the cores: their times must not be counted twice
    words, _ = read([STAGE], EVIDENCE, wall_seconds=5400.0)
    assert "3 CPU-hours, on 2 cores" in words


def test_evidence_shows_every_verdict_the_noise_and_the_ranks():
    words, pictures = read([STAGE], EVIDENCE)
    assert "undecided 1.2 -3.0 to 5.5 0.900 detects 6.0" in words
    assert "not measured – – – 2 paths with 3 seeds" in words
    assert "standard deviation 2.0 [1.2, 4.9] points" in words
    assert "the published genotype c2fnas 2 55.0 7.1" in words  # 50 and 60: 10 / sqrt(2)
    assert pictures[-1].startswith("Score of each path")
    assert search_page.tau_text(EVIDENCE["ranks"]) == (
        "Kendall's tau 0.40 [-0.10, 0.80], 2 paths, 3 trainings of each"
    )


@pytest.mark.parametrize("place", ["federated", "pooled"])
def test_two_searches_side_by_side_are_told_apart(place):
    words, _ = read([dataclasses.replace(STAGE, stage="operations", place=place)])
    assert f"one supernet ({place})" in words


def test_a_search_without_a_score_has_a_page():
    empty = dataclasses.replace(STAGE, candidates=[], winners={})
    assert "Nothing has been scored yet." in read([empty])[0]


def test_evidence_alone_has_a_page_that_says_how_far_it_is():
    words, _ = read([], EVIDENCE)
    assert "The evidence is still being collected: 3 of 9 trainings." in words
    assert "candidates scored" not in words and "2 CPU-hours, on 2 cores" in words
