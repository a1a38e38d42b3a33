import pytest

from experiments.models.membership import targets
from experiments.models.membership.targets import Candidates
from tests.experiments.models.membership import measured_run


def touched(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


RUN = (
    *(f"server/global/round_{n:03d}.safetensors" for n in range(9)),
    "server/kept/round_008/round_008.C1.0123456789abcdef.safetensors",
    "server/kept/round_008/round_008.C2.0123456789abcdef.safetensors",
    "server/kept/round_004/round_004.C1.0123456789abcdef.safetensors",
    "sites/C1/federated/best.safetensors",
    "sites/C2/federated/best.safetensors",
    "sites/C1/baseline/best.safetensors",
    "sites/C2/baseline/best.safetensors",
)


def test_targets_of_a_run_are_its_globals_kept_updates_and_local_models(tmp_path):
    found = targets.of_run(touched(tmp_path, *RUN), ["C1", "C2"])
    assert [(t.name, t.kind, t.round, t.sites) for t in found] == [
        ("FL_global", "global", 2, ("C1", "C2")),
        ("FL_global", "global", 4, ("C1", "C2")),
        ("C1_update", "update", 4, ("C1",)),
        ("FL_global", "global", 8, ("C1", "C2")),
        ("C1_update", "update", 8, ("C1",)),
        ("C2_update", "update", 8, ("C2",)),
        ("C1_FL_local", "local", None, ("C1",)),
        ("C2_FL_local", "local", None, ("C2",)),
        ("C1_baseline", "local", None, ("C1",)),
        ("C2_baseline", "local", None, ("C2",)),
    ]
    # An update is compared with the model that its site trained from.
    received = {t.round: t.received.name for t in found if t.kind == "update"}
    assert received == {4: "round_003.safetensors", 8: "round_007.safetensors"}
    assert [t.round for t in targets.of_run(tmp_path, ["C1"], [1, 8])][:3] == [1, 8, 8]


def test_references_of_a_site_are_the_baselines_of_the_others(tmp_path):
    found = targets.references_of_run(touched(tmp_path, *RUN), ["C1", "C2"])
    assert {site: [path.parents[1].name for path in own] for site, own in found.items()} == {
        "C1": ["C2"],
        "C2": ["C1"],
    }


@pytest.mark.parametrize(
    ("files", "rounds", "match"),
    [
        (["server/global/round_000.safetensors"], [], "holds no global model that was trained"),
        ([], [], "holds no global model that was trained"),
        (RUN, [9], r"round_009.safetensors: no such file; --rounds takes rounds from 1 to 8"),
        (RUN, [0], r"round_000.safetensors: .*--rounds takes rounds from 1 to 8"),
    ],
)
def test_a_folder_without_the_models_is_refused(tmp_path, files, rounds, match):
    with pytest.raises(ValueError, match=match):
        targets.of_run(touched(tmp_path, *files), ["C1"], rounds)


def test_members_are_training_cases_and_no_case_is_of_both_kinds(tmp_path):
    own = measured_run.store(tmp_path / "C1", "C1", range(5), (3, 1, 1))
    others = measured_run.store(tmp_path / "others", "C1", range(10, 14), (0, 0, 4))
    found = Candidates.of(own, others)
    assert found.members == 3 and len(found.scans) == 7
    assert {scan.case_id for scan in found.scans[:3]} == set(own.case_ids("training"))
    assert len(Candidates.of(own, others, limit=2).scans) == 5
    assert Candidates.of(own, others, limit=2).key != found.key == Candidates.of(own, others).key
    (test_case,) = own.case_ids("test")
    number = int(test_case.partition("_")[2])
    same = measured_run.store(tmp_path / "same", "C1", [20, number], (0, 0, 2))
    with pytest.raises(ValueError, match=f"non-member C1_{number} is case {test_case} of site C1"):
        Candidates.of(own, same)


def test_no_case_of_another_site_is_a_non_member_of_the_global_model(tmp_path):
    own = measured_run.store(tmp_path / "C1", "C1", range(2), (2, 0, 0))
    second = measured_run.store(tmp_path / "C2", "C2", [7], (1, 0, 0))
    same = measured_run.store(tmp_path / "same", "C2", [7, 8], (0, 0, 2))
    assert len(Candidates.of(own, same).scans) == 4
    with pytest.raises(ValueError, match="non-member C2_7 is case C2_7 of site C2; give patients"):
        Candidates.of(own, same, elsewhere=[second])


def test_both_kinds_of_candidates_are_needed(tmp_path):
    own = measured_run.store(tmp_path / "C1", "C1", range(2), (0, 0, 2))
    others = measured_run.store(tmp_path / "others", "C1", [10], (0, 0, 1))
    with pytest.raises(ValueError, match="site C1: 0 training cases and 1 non-members"):
        Candidates.of(own, others)


def test_losses_of_scans_whose_labels_were_corrected_are_computed_again(tmp_path):
    own = measured_run.store(tmp_path / "C1", "C1", range(3), (1, 1, 1))
    others = measured_run.store(tmp_path / "others", "C1", [10], (0, 0, 1))
    before = Candidates.of(own, others)

    class Corrected:
        """The same scan with one voxel of the label changed."""

        def __init__(self, case):
            self.case_id, self.image, self.label = case.case_id, case.image, case.label.copy()
            self.label[0, 0, 0] ^= 1

    class Others:
        site = "C1"

        def case_ids(self):
            return others.case_ids()

        def open(self, case):
            return Corrected(others.open(case))

    assert Candidates.of(own, Others()).key != before.key == Candidates.of(own, others).key
