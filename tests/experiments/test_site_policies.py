"""What a site holds back, with a real network and the real programs: C1 shares by the sparse vector
technique, C2 without a policy, and both keep their instance norms to themselves.
"""

import json

import numpy as np
import pytest

from federated.security import provisioning
from federated.tensors import tensor_files
from preprocessing import nifti
from preprocessing.case_list import Case, CaseManifest
from preprocessing.preparation import pipeline
from tests import forked
from tests.experiments.study import SHALLOW, Study, scan

SITES, ROUNDS = ("C1", "C2"), 2
EPSILON1, EPSILON3, FRACTION = 0.1, 1.0, 0.1
SVT = {
    "privacy_filter": "svt",
    "privacy_gamma": 0.01,
    "privacy_epsilon1": EPSILON1,
    "privacy_epsilon3": EPSILON3,
    "privacy_fraction": FRACTION,
    "privacy_budget": 1e6,
    "privacy_tell_epsilon": "true",
    "lend_local": "false",
}


class Kept(Study):
    """A study whose sites keep their norms."""

    def flags(self, **changes):
        own = {"keep_at_site": "norms", "vae": "none", "local_epochs": 1, **changes}
        return super().flags(**own)

    def make(self):
        """Makes scans, case stores and kits without their programs, which other tests start."""
        for site in SITES:
            cases = []
            for number in range(4):
                paths = [self.folder / f"{site}_{kind}{number}.nii" for kind in ("image", "label")]
                for path, volume in zip(paths, scan(site, number), strict=True):
                    nifti.write_volume(path, volume)
                cases.append(Case(f"case{number}", *paths))
            pipeline.prepare(
                CaseManifest(site, tuple(cases)),
                self.site_folder(site) / "cases",
                target_mm=(3.0, 3.0, 3.0),
                split_seed=5,
                split_counts=(2, 1, 1),
            )
        provisioning.provision(self.kits, "localhost", SITES, port=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    study = Kept(tmp_path_factory.mktemp("kept"), genotype=SHALLOW)
    study.make()
    with study.group() as group:
        init = study.flags(output=study.initial, threads=1)
        group.wait([group.start("init", "experiments.init_model", init)], "initial model")
        server, port = study.serve(group, study.folder / "store", num_rounds=ROUNDS)
        sites = [
            study.join(
                group,
                site,
                port,
                module="tests.experiments.tapped_join",
                lend=False,
                tap=study.folder / f"{site}.sent",
                **(SVT if site == "C1" else {}),
            )
            for site in SITES
        ]
        group.wait([*sites, server], "federation")
    return study


def load(path):
    return tensor_files.load(path)[0]


def pieces(array):
    """Returns an array's bytes, cut where a chunk may end."""
    data = np.ascontiguousarray(array).tobytes()
    return [data[at : at + 64] for at in range(0, len(data), 64)]


def names(study):
    """Returns (names that stay at a site, names that are shared)."""
    initial = load(study.initial)
    kept = {name for name in initial if name.rpartition("/")[2] in ("gamma", "beta")}
    return kept, initial.keys() - kept


def test_no_byte_of_a_kept_array_leaves_a_site(run):
    kept, shared = names(run)
    assert kept and shared
    initial = load(run.initial)
    for site in SITES:
        sent = (run.folder / f"{site}.sent").read_bytes()
        files = sorted((run.site_folder(site) / "federated/journal/private").iterdir())
        assert len(files) >= ROUNDS
        for path in files:
            own = load(path)
            assert own.keys() == kept
            for name, array in own.items():
                assert not np.array_equal(array, initial[name]), f"{name} was not trained"
                assert array.nbytes >= 16
                assert array.tobytes() not in sent, (site, path.name, name)
    # The search finds what did leave: the shared arrays of C2's local model, which it lends.
    sent = (run.folder / "C2.sent").read_bytes()
    lent = load(run.folder / "store" / "models" / "C2_FL_local.safetensors")
    assert lent.keys() == shared
    assert all(piece in sent for array in lent.values() for piece in pieces(array))


def test_the_global_models_have_the_initial_model_where_sites_keep_their_own(run):
    kept, shared = names(run)
    initial = load(run.initial)
    for number in range(1, ROUNDS + 1):
        found = load(run.folder / "store" / "global" / f"round_{number:03d}.safetensors")
        assert all(np.array_equal(found[name], initial[name]) for name in kept)
        assert any(not np.array_equal(found[name], initial[name]) for name in shared)


def test_the_sparse_vector_technique_states_its_epsilon_and_the_run_ends(run):
    """By hand: epsilon 1 + epsilon 1 (2 q)^(2/3) + epsilon 3 for q values (Lyu et al. 2017), and as
    much again in every round.
    """
    _, shared = names(run)
    initial = load(run.initial)
    q = int(FRACTION * sum(initial[name].size for name in shared))
    one = EPSILON1 + EPSILON1 * (2 * q) ** (2 / 3) + EPSILON3
    log = (run.folder / "logs" / "join C1.log").read_text(encoding="utf-8", errors="replace")
    told = [line for line in log.splitlines() if line.startswith("privacy of this site's patients")]
    assert len(told) == 1 and told[0].endswith(" at delta 0")
    stated = float(told[0].rpartition("epsilon ")[2].partition(" ")[0].replace(",", ""))
    assert ROUNDS * one <= stated <= ROUNDS * one * 1.01
    lines = (run.folder / "store" / "events.jsonl").read_text().splitlines()
    pushed = [e for e in map(json.loads, lines) if e["event"] == "pushed" and e["site"] == "C1"]
    assert [e["metrics"]["privacy_epsilon"] for e in pushed] == pytest.approx([one, 2 * one])
    assert all(e["metrics"].keys() == {"privacy_epsilon"} for e in pushed)


def test_the_updates_of_the_sparse_vector_technique_share_few_values(run):
    _, shared = names(run)
    before = load(run.folder / "store" / "global" / f"round_{ROUNDS - 1:03d}.safetensors")
    (path,) = (run.folder / "store").glob(f"**/round_{ROUNDS:03d}/*C1*.safetensors")
    update = load(path)
    assert update.keys() == shared
    changed = sum(np.count_nonzero(update[name] != before[name]) for name in shared)
    total = sum(before[name].size for name in shared)
    assert 0 < changed <= FRACTION * total
    # Every answer is within the bound per step that the site was given; it trained one step.
    steps = 1
    for name in shared:
        assert np.abs(update[name] - before[name]).max() <= 0.01 * steps * 1.001


def test_the_audit_recomputes_the_run(run):
    done = forked.run(
        "experiments.audit",
        f"--store={run.folder / 'store'}",
        f"--authority={run.kits / 'C1' / 'ca.pem'}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
