"""The trainings of the evidence and their results, without training anything."""

import dataclasses
import json

import pytest

from c2fnas import genotype
from experiments.search import evidence
from experiments.search.evidence import AloneTraining, ScoredPath
from experiments.search.evidence_settings import EvidenceSettings
from experiments.search.shared_work import SharedWork

PUBLISHED = genotype.load("c2fnas").with_size(filters=4)
SETTINGS = EvidenceSettings(alone_steps=5, compared_seeds=3, noise_seeds=6, rank_paths=8)
COMPARED = evidence.networks(
    PUBLISHED,
    {
        "topology_evolution": evidence.with_one_operation(PUBLISHED, "p3d"),
        "topology_random": evidence.with_one_operation(PUBLISHED, "conv3d"),  # that of all_3d
    },
)


def path(number):
    digits = [number // 3**k % 3 for k in range(len(PUBLISHED.cells))]
    ops = ("conv2d", "conv3d", "p3d")
    cells = [
        dataclasses.replace(c, op=ops[d]) for c, d in zip(PUBLISHED.cells, digits, strict=True)
    ]
    return dataclasses.replace(PUBLISHED, name=f"path{number}", cells=tuple(cells))


PATHS = [ScoredPath(path(1 + n), 0.4 + 0.02 * n) for n in range(10)]


def rows(score):
    return [
        {"site": site, "case": 1, "score": score, "dice_pancreas": score, "dice_tumour": None}
        for site in ("C1", "C2")
    ]


def train(one, label):
    """A training whose score is its network's, plus a little that depends on its seed."""
    level = {"published": 0.5, "all_2d": 0.6, "all_3d": 0.4, "topology_evolution": 0.7}
    value = level.get(one.network)
    if value is None:  # a path: as in the supernet
        value = 0.3 + 0.02 * int(one.network.removeprefix("path"))
    value += 0.001 * one.seed
    return {"validation": rows(value), "test": rows(value)}, 2.0


def test_networks_with_one_operation_keep_the_topology():
    assert list(COMPARED) == [
        "published",
        "all_2d",
        "all_3d",
        "topology_evolution",
        "topology_random",
    ]
    assert {cell.op for cell in COMPARED["all_2d"].cells} == {"conv2d"}
    assert [c.inputs for c in COMPARED["all_2d"].cells] == [c.inputs for c in PUBLISHED.cells]
    with pytest.raises(ValueError, match="nothing is not in any claim"):
        evidence.networks(PUBLISHED, {"nothing": PUBLISHED})


def test_trainings_are_counted_once_and_balanced_over_seeds():
    found = evidence.planned(COMPARED, PATHS, SETTINGS, seed=10)
    # four different networks with three seeds, three more of the published, eight paths with three
    assert len(found) == 4 * 3 + 3 + 8 * 3
    assert [one.seed for one in found[:12]] == [11] * 12
    assert {one.seed for one in found if one.network == "published"} == set(range(11, 17))
    assert 10 not in {one.seed for one in found}  # the search's own, by which winners were chosen
    renamed = AloneTraining("x", evidence.with_one_operation(PUBLISHED, "conv3d"), 11)
    assert renamed.key in {one.key for one in found}


def test_a_stopped_evidence_goes_on_and_says_the_same(tmp_path):
    trainings = evidence.planned(COMPARED, PATHS, SETTINGS, seed=10)
    done = []

    def counted(one, label):
        if len(done) == 7:
            done.append(None)
            raise KeyboardInterrupt
        done.append(one.key)
        return train(one, label)

    with pytest.raises(KeyboardInterrupt):
        evidence.run(trainings, tmp_path, counted)
    part = evidence.document(COMPARED, PATHS, SETTINGS, tmp_path, seed=10)
    assert part["trainings"] == {"done": 7, "planned": 39} and not part["finished"]
    assert {one["verdict"] for one in part["verdicts"]} == {"not measured"}
    evidence.run(trainings, tmp_path, counted, most_trainings=10)
    assert len(done) == 18
    evidence.run(trainings, tmp_path, counted)
    assert len(done) == 40 and len(set(done)) == 40
    whole = evidence.document(COMPARED, PATHS, SETTINGS, tmp_path, seed=10)
    assert whole["finished"] and whole["seconds"] == 2.0 * 39
    json.dumps(whole)  # nothing that JSON does not hold


def test_the_document_holds_noise_ranks_and_verdicts(tmp_path):
    evidence.run(evidence.planned(COMPARED, PATHS, SETTINGS, seed=10), tmp_path, train)
    found = evidence.document(COMPARED, PATHS, SETTINGS, tmp_path, seed=10)
    # seeds 11 to 16 add 1.1 to 1.6 points: a standard deviation of 0.187
    assert found["noise"]["deviation"] == pytest.approx(0.187, abs=1e-3)
    assert found["ranks"]["tau"] == 1.0 and len(found["ranks"]["supernet"]) == 8
    verdicts = {one["key"]: one for one in found["verdicts"]}
    assert verdicts["in_plane_on_thick_slices"]["interval"]["estimate"] == pytest.approx(20.0)
    assert verdicts["operations_beat_random"]["verdict"] == "not measured"
    assert found["networks"]["topology_random"]["scores"] == found["networks"]["all_3d"]["scores"]


def test_paths_are_written_and_read(tmp_path):
    evidence.write_paths(tmp_path / "paths.json", PATHS[:2])
    assert evidence.read_paths(tmp_path / "paths.json", 4) == PATHS[:2]
    assert evidence.read_paths(tmp_path / "paths.json", 8)[0].genotype.filters == 8
    with pytest.raises(ValueError, match="holds 2 paths and --rank_paths is 8; lower it"):
        evidence.read_paths(tmp_path / "paths.json", 4, least=8)
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match=r"--paths is .*none\.json, which does not exist"):
        evidence.read_paths(tmp_path / "none.json", 4)
    with pytest.raises(ValueError, match="holds no paths of a supernet"):
        evidence.read_paths(tmp_path / "other.json", 4)


GENES = PUBLISHED.to_json()
DEEPER = dataclasses.replace(
    PUBLISHED, cells=(dataclasses.replace(PUBLISHED.cells[0], level=2), *PUBLISHED.cells[1:])
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"score": 0.5}], "path 1 has no genotype or no score"),
        ([{"genotype": GENES, "score": 0.5}, {"genotype": GENES}], "path 2 has no genotype or no"),
        ([{"genotype": GENES, "score": None}], "path 1 has no genotype or no score"),
        (["path"], "path 1 has no genotype or no score"),
        ([{"genotype": {"cells": 3}, "score": 0.5}], "path 1 has no genotype or no score"),
        ([{"genotype": GENES, "score": float("nan")}], "the score of path 1 is nan"),
        # each would count as a path of its own, or leave too few after all trainings
        ([{"genotype": GENES, "score": 0.5}, {"genotype": {**GENES, "name": "b"}, "score": 0.4}],
         "path 2 repeats an earlier one"),
        ([{"genotype": GENES, "score": 0.5}, {"genotype": DEEPER.to_json(), "score": 0.4}],
         "several topologies"),
    ],
)  # fmt: skip
def test_broken_paths_are_refused_by_file_and_number(tmp_path, content, words):
    file = tmp_path / "paths.json"
    file.write_text(json.dumps({"format": 1, "paths": content}))
    with pytest.raises(ValueError, match=rf"paths\.json: .*{words}"):
        evidence.read_paths(file, 4)


def test_paths_belong_to_the_supernet_whose_operations_are_compared():
    found = {
        "topology_evolution": DEEPER,
        "operations_evolution": path(3),
        "operations_random": path(4),
    }
    evidence.require_one_supernet(found, PATHS)
    evidence.require_one_supernet(found, [])
    evidence.require_one_supernet({}, PATHS)
    with pytest.raises(ValueError, match="operations_evolution and --paths have different topol"):
        evidence.require_one_supernet(found, [ScoredPath(DEEPER, 0.5)])
    with pytest.raises(ValueError, match="operations_evolution and operations_random have differ"):
        evidence.require_one_supernet({**found, "operations_random": DEEPER}, PATHS)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"rows": {"test": []}, "seconds": 1}', '{"rows": 3, "seconds": 1}']
)
def test_a_broken_training_is_named(tmp_path, content):
    trainings = evidence.planned(COMPARED, PATHS, SETTINGS, seed=10)
    evidence.run(trainings, tmp_path, train, most_trainings=1)
    (file,) = (tmp_path / "trainings").iterdir()
    file.write_text(content)
    with pytest.raises(ValueError, match=rf"{file.name}: is not a finished training .*; delete it"):
        evidence.document(COMPARED, PATHS, SETTINGS, tmp_path, seed=10)
    file.write_text('{"format": 99}')
    with pytest.raises(ValueError, match="newer release"):
        evidence.document(COMPARED, PATHS, SETTINGS, tmp_path, seed=10)


def kept(**changes):
    given = {
        "compared": COMPARED,
        "paths": PATHS,
        "chosen": SETTINGS,
        "about": {"experiment": {"filters": 4}},
    }
    return evidence.plan(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"about": {"experiment": {"filters": 8}}}, "experiment.filters 4, now 8"),
        (
            {"chosen": dataclasses.replace(SETTINGS, compared_seeds=5)},
            "trainings.compared_seeds 3, now 5",
        ),
        ({"compared": {**COMPARED, "topology_random": PUBLISHED}}, "networks.topology_random "),
        ({"paths": [dataclasses.replace(PATHS[0], score=0.9), *PATHS[1:]]}, "score 0.4, now 0.9"),
    ],
)
def test_the_plan_cannot_change_after_the_first_training(tmp_path, changes, words):
    evidence.keep_plan(tmp_path, kept())
    evidence.keep_plan(tmp_path, json.loads(json.dumps(kept())))
    evidence.keep_plan(tmp_path, kept(paths=PATHS[:8]))  # those beyond --rank_paths are not used
    with pytest.raises(ValueError, match="started with another plan") as error:
        evidence.keep_plan(tmp_path, kept(**changes))
    assert words in str(error.value)


def test_a_claim_cannot_change_after_the_first_training(tmp_path, monkeypatch):
    evidence.keep_plan(tmp_path, kept())
    first, *others = evidence.SEARCH_CLAIMS
    turned = dataclasses.replace(first, rule="less")
    monkeypatch.setattr(evidence, "SEARCH_CLAIMS", (turned, *others))
    with pytest.raises(ValueError, match=r"topology_beats_random\.rule greater, now less"):
        evidence.keep_plan(tmp_path, kept())


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "evidence.json").write_text("mine")
    with pytest.raises(ValueError, match=r"where evidence\.json exists"):
        evidence.keep_plan(tmp_path, kept())
    assert [file.name for file in tmp_path.iterdir()] == ["evidence.json"]


def test_there_are_no_verdicts_before_the_last_training(tmp_path):
    trainings = evidence.planned(COMPARED, PATHS, SETTINGS, seed=10)
    evidence.run(trainings, tmp_path, train, most_trainings=len(trainings) - 1)
    found = evidence.document(COMPARED, PATHS, SETTINGS, tmp_path, seed=10)
    assert {(one["verdict"], one["remark"]) for one in found["verdicts"]} == {
        ("not measured", "the trainings are not finished")
    }
    evidence.run(trainings, tmp_path, train)
    found = evidence.document(COMPARED, PATHS, SETTINGS, tmp_path, seed=10)
    assert {"supported", "not measured"} <= {one["verdict"] for one in found["verdicts"]}


def test_a_training_that_another_process_has_claimed_is_left_to_it(tmp_path):
    trainings = evidence.planned(COMPARED, PATHS, SETTINGS, seed=10)
    with SharedWork(tmp_path).alone():
        claim = SharedWork(tmp_path).claim(trainings[0].key)
    with claim:
        evidence.run(trainings, tmp_path, train)
    found = evidence.document(COMPARED, PATHS, SETTINGS, tmp_path, seed=10)
    assert found["trainings"] == {"done": 38, "planned": 39}
    evidence.run(trainings, tmp_path, train)
    assert evidence.document(COMPARED, PATHS, SETTINGS, tmp_path, seed=10)["finished"]


def test_a_claim_that_ended_without_a_result_is_taken_over(tmp_path):
    trainings = evidence.planned(COMPARED, PATHS, SETTINGS, seed=10)
    with SharedWork(tmp_path).alone():
        claim = SharedWork(tmp_path).claim(trainings[0].key)

    def killed_in_between(one, label):
        claim.__exit__()  # as when its process is killed
        return train(one, label)

    evidence.run(trainings, tmp_path, killed_in_between)
    assert evidence.document(COMPARED, PATHS, SETTINGS, tmp_path, seed=10)["finished"]
