"""Does in this process what the programs do with one case.

The programs are prepare, prepare --check, cohort_report, predict and evaluate. The network of
predict is a stand-in of two thresholds; everything else is the product's own code. `odd_cohort`
starts the programs themselves, with a real network.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np

PROGRAMS = ("prepare", "check", "cohort", "predict", "evaluate")
VALUE = "a value"
_SETTINGS = {"target_mm": [4.0, 4.0, 5.0], "window_hu": [-200.0, 250.0], "label_values": None}
_UNFORESEEN = "an unforeseen"


def ends(
    case, odd: pathlib.Path, folder: pathlib.Path, truth: pathlib.Path
) -> tuple[dict[str, str], list[str]]:
    """Returns program -> `VALUE` or the id of a rule, and the failures.

    Args:
      case: a case with a label.
      odd: which of scan and label is mutated. predict reads only mutated scans; evaluate scores its
        mask, or a mutated label as if it were a mask.
      folder: folder for results; a rule must name a file in it.
      truth: a good label, for evaluate.
    """
    from preprocessing.rules import IntegrityError

    found, wrong = {}, []
    for program, run in _runs(case, odd, folder, truth).items():
        try:
            refused = run()
        except IntegrityError as error:
            refused = error
        except Exception as error:
            wrong.append(f"{program}: {type(error).__name__}: {error}")
            continue
        found[program] = VALUE if refused is None else refused.rule
        if refused is not None and (
            _UNFORESEEN in str(refused)
            or "\n" in str(refused)
            or not pathlib.Path(refused.file).is_relative_to(folder)
        ):
            wrong.append(f"{program}: {refused}")
    return found, wrong


def _runs(
    case, odd: pathlib.Path, folder: pathlib.Path, truth: pathlib.Path
) -> dict[str, Callable]:
    """Returns program -> the function that runs it on one case.

    Each function returns the broken rule or None, or raises the rule.
    """
    from c2fnas.sliding_window import WindowConfig
    from experiments.models import scan_prediction
    from experiments.reports import cohort_page
    from experiments.results import case_rows
    from preprocessing import budget, nifti
    from preprocessing.checks import cohort, survey
    from preprocessing.preparation.case_preparation import prepare_case
    from preprocessing.rules import IntegrityError

    mask = folder / "mask.nii.gz"

    def prepare():
        budget.case_need(case, _SETTINGS["target_mm"])
        outcome = prepare_case(case, folder / "store", _SETTINGS)
        return outcome if isinstance(outcome, IntegrityError) else None

    def check():
        errors = survey.look_at(case).errors
        return errors[0] if errors else None

    def cohort_report():
        finding = survey.look_at(case)
        cohort_page.page([cohort.summarise("C1", [finding])])
        return finding.errors[0] if finding.errors else None

    def predict():
        mask.unlink(missing_ok=True)
        settings = scan_prediction.PredictionSettings(
            spacing_mm=(6.0, 6.0, 10.0),
            window_hu=(-200.0, 250.0),
            window=WindowConfig((16, 16, 8), 0.25),
        )
        scan_prediction.predict_scan(case.image, mask, _threshold, settings)
        nifti.read_labels(mask)

    def evaluate():
        scored = case.label if odd == case.label else mask
        if not scored.exists():
            return  # the scan is refused, so there is nothing to score
        try:
            case_rows.of_files(scored, truth, None, 2.0)
        except ValueError as error:
            if type(error) is not ValueError or "have different grids" not in str(error):
                raise
        return

    runs = {
        "prepare": prepare,
        "check": check,
        "cohort": cohort_report,
        "predict": predict,
        "evaluate": evaluate,
    }
    if odd == case.label:
        del runs["predict"]
    return runs


def _threshold(patches: np.ndarray) -> np.ndarray:
    """Returns three logits per voxel: pancreas above 25 HU, tumour above 160 HU."""
    return np.concatenate([np.zeros_like(patches), 4 * patches, 8 * patches - 2.4], axis=-1)
