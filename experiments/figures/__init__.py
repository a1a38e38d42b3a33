"""The figures of a run: functions from arrays, rows or events to a matplotlib `Figure`.

They open no files. They use matplotlib's object interface, without global state or a display.
"""

from experiments.figures.learning_curves import training_curves
from experiments.figures.network import genotype_figure, vae_figure
from experiments.figures.overview import overview
from experiments.figures.patients import froc_figure
from experiments.figures.reconstructed import reconstruction_figure
from experiments.figures.round import round_figure
from experiments.figures.search import pareto_figure, progress_figure, ranks_figure
from experiments.figures.slices import (
    CaseSlice,
    choose_slice,
    comparison,
    overlay,
    radiological,
    slice_case,
)
from experiments.figures.style import CLASS_COLOURS, MODEL_COLOURS, PANCREAS, TUMOUR
from experiments.figures.table import table_figure
from experiments.figures.timeline import ACTIVITY_COLOURS, federation_timeline

__all__ = [
    "ACTIVITY_COLOURS",
    "CLASS_COLOURS",
    "MODEL_COLOURS",
    "PANCREAS",
    "TUMOUR",
    "CaseSlice",
    "choose_slice",
    "comparison",
    "federation_timeline",
    "froc_figure",
    "genotype_figure",
    "overlay",
    "overview",
    "pareto_figure",
    "progress_figure",
    "radiological",
    "ranks_figure",
    "reconstruction_figure",
    "round_figure",
    "slice_case",
    "table_figure",
    "training_curves",
    "vae_figure",
]
