"""What a model card says: settings as written, scores as a table, and what is not known."""

from c2fnas import genotype, model_card
from c2fnas.scores.healthy_gate import HealthyGate

PLAN = {
    "spacing_mm": [3.0, 2.5, 3.0],
    "window_hu": [-200.0, 250.0],
    "classes": {"1": "pancreas", "0": "background"},
    "inference": {"window": [80, 80, 64], "overlap": 0.25, "blending": "constant"},
}


def text(**changes):
    about = {"plan": PLAN, "training_data": {}, "scores": {}, **changes}
    return model_card.text("C1_baseline", genotype.load("c2fnas"), **about)


def test_the_plan_and_the_network_are_stated():
    card = " ".join(text().split())
    assert card.startswith("# C1_baseline Segments pancreas")
    assert "resampled to 3 x 2.5 x 3 mm, HU -200 to 250 are mapped" in card
    assert "windows of 80 x 80 x 64 voxels with overlap 0.25 and constant weights" in card
    assert "Classes: 0 background, 1 pancreas." in card
    assert "12 cells" in card and "19,559,360 convolution weights" in card


def test_what_is_not_known_is_said():
    card = text(plan={})
    assert "resampled to unknown mm, HU unknown are" in card
    assert "Not recorded.\n" in card and "the model was not scored" in card
    assert "Healthy gate" not in card


def test_training_data_are_listed_beneath_their_names():
    card = text(training_data={"cases": {"training": 18}, "field_of_view": [1.5, 2.0]})
    assert "* cases:\n  * training: 18\n* field of view: 1.5, 2\n" in card


def test_scores_have_their_interval_as_far_as_it_is_known():
    def mean(low, high, value=0.5):
        return {"mean": value, "low": low, "high": high, "cases": 3}

    measures = {
        "dice_pancreas": mean(0.25, 0.75),
        "dice_tumour": mean(0.25, None),
        "hausdorff_mm": mean(None, None),
        "surface_dice": mean(None, None, None),
    }
    card = text(scores={"test cases of C2": measures})
    assert [line for line in card.split("\n") if line.startswith("| test")] == [
        "| test cases of C2 | dice pancreas | 0.500 | 0.250 - 0.750 | 3 |",
        "| test cases of C2 | dice tumour | 0.500 | 0.250 - ? | 3 |",
        "| test cases of C2 | hausdorff mm | 0.500 |  | 3 |",
    ]


def test_a_gate_is_explained_with_its_numbers():
    gate = HealthyGate(threshold=1.234, patients=17)
    card = text(gate=gate.to_json())
    assert "## Healthy gate" in card and "is at most 1.23, and says so" in card
    # The 15th of 17 scores is the threshold: 1 - 15 / 18.
    assert "fitted on 17 validation cases" in card and "at most 17 % are expected above it" in card


def test_a_gate_that_this_release_cannot_apply_is_named_as_such():
    card = text(gate={**HealthyGate(threshold=1.0, patients=6).to_json(), "version": 2})
    assert "Cannot be applied: the gate is {'version': 2, 'rule': 'log_odds_1ml'}" in card
