import types

import numpy as np
import pytest

from experiments.run import run_folder
from experiments.run import stages as run_stages
from experiments.studies import faults, runner, study_file
from federated.security import provisioning
from preprocessing.foreground import LabelBox
from tests import forked
from tests.experiments.studies.small_study import FILE, FakePrograms, parse, read

MODEL = {"w": np.float32([1.0, 2.0]), "n": np.int32([4])}
UPDATE = {"w": np.float32([1.5, 1.0]), "n": np.int32([6])}
FIRST = {"w": np.float32([-1.0, 0.0]), "n": np.int32([0])}


@pytest.mark.parametrize(
    ("fault", "w", "n"),
    [
        ("sign_flipped", [0.5, 3.0], [2]),
        ("scaled", [51.0, -98.0], [204]),
        ("labels_shuffled", [1.5, 1.0], [6]),
        ("stuck", [-1.0, 0.0], [0]),
    ],
)
def test_what_is_sent_by_hand(fault, w, n):
    found = faults.sent(fault, MODEL, UPDATE, FIRST)
    np.testing.assert_array_equal(found["w"], np.float32(w))
    np.testing.assert_array_equal(found["n"], n)
    assert (found["w"].dtype, found["n"].dtype) == (np.float32, np.int32)


def test_every_fault_is_tried_and_explained():
    assert set(faults.FAULTS) == set(faults._SENT)


class Trainer:
    num_examples, labels = 7, {"pancreas": "complete"}

    def train(self, weights, round_number):
        return {"w": weights["w"] + np.float32(1)}, {"loss": round_number}


def test_a_stuck_site_sends_its_first_model_after_a_restart_too(tmp_path):
    first, later = {"w": np.float32([1, 2])}, {"w": np.float32([3, 4])}
    bad = faults.FaultyTrainer(Trainer(), "stuck", tmp_path)
    assert bad.num_examples == 7 and bad.labels == {"pancreas": "complete"}
    update, metrics = bad.train(first, 1)
    np.testing.assert_array_equal(update["w"], first["w"])
    again = faults.FaultyTrainer(Trainer(), "stuck", tmp_path)
    update, metrics = again.train(later, 2)
    np.testing.assert_array_equal(update["w"], first["w"])
    assert metrics == {"loss": 2}


def test_a_sign_flipped_update_is_as_far_from_the_model_on_the_other_side(tmp_path):
    bad = faults.FaultyTrainer(Trainer(), "sign_flipped", tmp_path)
    update, _ = bad.train({"w": np.float32([5, 7])}, 1)
    np.testing.assert_array_equal(update["w"], np.float32([4, 6]))


def box(shape, corner, size=2):
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(c, c + size) for c in corner)] = 1
    return label


LABELS = {
    "a": box((8, 8, 6), (3, 3, 2)),
    "b": box((10, 6, 6), (4, 2, 2)),
    "c": box((8, 8, 8), (0, 0, 0)),
}


class Store:
    site, declared = "C3", None

    def __init__(self, labels=None):
        self.labels = LABELS | (labels or {})

    def case_ids(self, split=None):
        return {"training": ("a", "b"), "test": ("c",), None: ("a", "b", "c")}[split]

    def open(self, case_id):
        label = self.labels[case_id]
        return types.SimpleNamespace(
            case_id=case_id,
            number=ord(case_id) - 96,
            image=np.full(label.shape, ord(case_id), np.float16),
            label=label,
            runs=LabelBox.of(label).runs(),
            native="grid",
            target_mm=(3.0, 3.0, 3.0),
            native_label=lambda: "own",
        )


def test_training_cases_have_the_label_of_the_next_one_over_their_middle():
    store = faults.ShuffledLabels(Store())
    assert (store.site, store.declared, store.case_ids("test")) == ("C3", None, ("c",))
    case = store.open("a")
    # b's box begins at (4, 2, 2) of 10 x 6 x 6: one voxel is cut off in x, one added in y
    np.testing.assert_array_equal(case.label, box((8, 8, 6), (3, 3, 2)))
    assert case.image[0, 0, 0] == ord("a") and (case.case_id, case.number) == ("a", 1)
    assert (case.native, case.target_mm, case.native_label()) == (
        "grid",
        (3.0, 3.0, 3.0),
        "own",
    )
    last = store.open("b")
    np.testing.assert_array_equal(last.label, box((10, 6, 6), (4, 2, 2)))
    # the runs that patches are drawn from are those of the new label
    np.testing.assert_array_equal(last.runs.runs, LabelBox.of(last.label).runs().runs)
    np.testing.assert_array_equal(store.open("c").label, LABELS["c"])


def test_a_label_that_lies_outside_is_refused():
    far = Store({"b": box((40, 6, 6), (0, 0, 0))})
    with pytest.raises(ValueError, match="case 1: the label of case 2 lies outside its scan"):
        faults.ShuffledLabels(far).open("a")


@pytest.mark.parametrize("training", [(), ("a",)])
def test_labels_that_cannot_be_swapped_are_refused(training):
    store = Store()
    store.case_ids = lambda split=None: training
    with pytest.raises(ValueError, match=f"site C3 has {len(training)} training case"):
        faults.ShuffledLabels(store)


def test_only_a_server_on_this_machine_is_spoilt():
    faults.require_own_machine("localhost")
    with pytest.raises(ValueError, match=r"server is on 'fl\.example\.org': this program corrupts"):
        faults.require_own_machine("fl.example.org")


def test_a_kit_of_a_real_federation_is_refused_behind_a_tunnel_too(tmp_path):
    provisioning.provision(tmp_path / "f", ["fl.example.org"], ["C1"], port=8443)
    done = forked.run(
        "experiments.faulty_site",
        "--fault=stuck",
        f"--kit={tmp_path / 'f' / 'C1'}",
        "--server=localhost:8443",
        f"--site_folder={tmp_path / 'site'}",
    )
    assert done.returncode == 1 and not (tmp_path / "site").exists()
    assert f"kit {tmp_path / 'f' / 'C1'} is for a server on 'fl.example.org'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"points": [{"label": "a", "fault": {"C3": "stuck"}}]},
            r"point a: `fault` is \{'C3': 'stuck'\}; expected some of its sites' names",
        ),
        (
            {"points": [{"label": "a", "fault": {"C2": "lazy"}}]},
            "point a: `fault` of C2 is 'lazy'; expected 'sign_flipped', 'scaled'",
        ),
        (
            {
                "points": [{"label": "a", "fault": {"C2": "stuck"}}],
                "sites": {"C1": {"manifest": "m.json"}, "C2": {"cohort": {"C2": 5}}},
            },
            "point a: `fault` is for sites with a synthetic `cohort`",
        ),
    ],
)
def test_a_wrong_fault_in_a_study_file_is_refused(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        read(tmp_path, **changes)


def test_a_bad_site_runs_the_experiments_program_and_the_others_the_real_one(tmp_path):
    sites = {**FILE["sites"], "C3": {"cohort": {"C1": 10}, "split": [6, 2, 2]}}
    points = [{"label": "sound"}, {"label": "bad", "fault": {"C3": "stuck"}}]
    study = read(tmp_path, sites=sites, points=points, seeds=[1])
    sound, bad = specs = [
        study_file.run_spec(study, point, 1, tmp_path / "runs" / "s", parse)
        for point in study.points
    ]
    assert [site.fault for site in bad.sites] == ["", "", "stuck"]
    assert "EXPERIMENT: site C3 sends the first model that it received" in bad.notes[0]
    texts = [runner._sites_text(spec) for spec in specs]
    # as in an earlier release, so that its runs can be resumed
    assert "fault" not in texts[0] and "--fault=C3:stuck\n" in texts[1]
    programs = FakePrograms()
    run = run_folder.RunFolder(bad.folder, "")
    run_stages.Stages(bad, run)._federation(programs(bad.folder))
    assert programs.started[1:] == ["serve server", "join C1", "join C2", "faulty_site C3"]
    assert programs.flags["faulty_site C3"]["fault"] == "stuck"
    # or the server would refuse a scaled update, whatever the rule
    assert programs.flags["serve server"]["max_change_ratio"] == "0"
    run_stages.Stages(sound, run)._federation(programs(sound.folder))
    assert "join C3" in programs.started
    assert "max_change_ratio" not in programs.flags["serve server"]
