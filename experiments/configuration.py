"""What an experiment is: frozen values, checked once, kept with every result. No flags, no files,
no TensorFlow.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from runkit.classes import CLASSES


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything that decides the numbers of a run. Sites of one federation must agree on all that
    `plan` returns.
    """

    profile: str
    seed: int
    # the network
    genotype: str  # a name of c2fnas.genotype.NAMES or the path of a genotype's JSON
    filters: int  # filters at full resolution; level l has filters * 2**l
    vae: str  # "reduced", "direct" or "none"
    latent_size: int
    classifier_bias: str  # "zero" or "log_prior"
    class_prior: tuple[
        float, ...
    ]  # share of voxels of background, pancreas, tumour; used by "log_prior" only
    # voxels
    spacing_mm: tuple[float, float, float]
    window_hu: tuple[float, float]
    # patches
    patch_size: tuple[int, int, int]  # voxels
    patches_per_case: int  # per epoch
    foreground_fraction: float
    tumour_fraction: float = 0.0  # of the foreground patches
    flip_axes: tuple[str, ...] = ()  # augmentation, off as in the paper
    intensity_scale: float = 0.0
    intensity_shift: float = 0.0
    batch_size: int  # over all replicas
    # optimisation
    learning_rate: float
    final_learning_rate: float
    vae_rate: float = 1.0  # share of the rate by which the VAE branch's own weights move
    kl: str  # "voxels" or "latent"
    # what a site's loss does about classes that its labels never show, see c2fnas.missing_labels
    missing_labels: str = "background"
    absence_evidence: bool = False  # whether it also learns from the received model's false alarms
    # local models that a site without all labels lends, so that every site's validation chooses
    # among them
    shared_candidates: int = 0
    # how a site computes and guards it: its own choice, as its GPUs are, so not in the plan
    precision: str = "float32"  # "float32", "mixed_bfloat16" or "mixed_float16"
    clip_norm: float = 0.0  # of all gradients together; 0 for no clipping
    non_finite: str = "stop"  # "stop" or "skip"
    instance_norm: str = "rows"  # "rows" or "library"; the same weights and values
    keep_checkpoints: int = 2
    # the federation; a baseline trains num_rounds * local_epochs epochs
    num_rounds: int
    local_epochs: int
    # rounds between two validations of a site's own model, and between two scores of the global
    # model
    validation_every: int = 1
    # whole-volume inference
    inference_window: tuple[int, int, int]  # voxels
    inference_overlap: float
    inference_blending: str  # "constant" or "gaussian"

    def __post_init__(self):
        _require(
            self.vae in ("reduced", "direct", "none"),
            "vae",
            self.vae,
            "'reduced', 'direct' or 'none'",
        )
        _require(
            self.classifier_bias in ("zero", "log_prior"),
            "classifier_bias",
            self.classifier_bias,
            "'zero' or 'log_prior'",
        )
        _require(self.kl in ("voxels", "latent"), "kl", self.kl, "'voxels' or 'latent'")
        treatments = ("background", "exclude", "restricted", "marginal", "distil")
        _require(
            self.missing_labels in treatments,
            "missing_labels",
            self.missing_labels,
            f"one of {', '.join(treatments)}",
        )
        precisions = ("float32", "mixed_bfloat16", "mixed_float16")
        _require(
            self.precision in precisions,
            "precision",
            self.precision,
            "'float32', 'mixed_bfloat16' or 'mixed_float16'",
        )
        _require(
            0 <= self.clip_norm < float("inf"),
            "clip_norm",
            self.clip_norm,
            "a finite number above 0, or 0 for no clipping",
        )
        _require(
            self.non_finite in ("stop", "skip"), "non_finite", self.non_finite, "'stop' or 'skip'"
        )
        _require(
            self.instance_norm in ("rows", "library"),
            "instance_norm",
            self.instance_norm,
            "'rows' or 'library'",
        )
        _require(
            0 <= self.foreground_fraction <= 1,
            "foreground_fraction",
            self.foreground_fraction,
            "a share between 0 and 1",
        )
        _require(
            0 <= self.tumour_fraction <= 1,
            "tumour_fraction",
            self.tumour_fraction,
            "a share between 0 and 1",
        )
        axes = ",".join(self.flip_axes)
        _require(
            len(set(self.flip_axes) & {"x", "y", "z"}) == len(self.flip_axes),
            "flip_axes",
            axes,
            "some of x, y, z, each once",
        )
        _require(
            0 <= self.intensity_scale < 1,
            "intensity_scale",
            self.intensity_scale,
            "0 up to, not including, 1",
        )
        _require(
            0 <= self.intensity_shift <= 2,
            "intensity_shift",
            self.intensity_shift,
            "0 to 2, the width of the window",
        )
        _require(
            0 <= self.inference_overlap < 1,
            "inference_overlap",
            self.inference_overlap,
            "a share from 0 up to, not including, 1",
        )
        _require(
            0 < self.final_learning_rate <= self.learning_rate,
            "final_learning_rate",
            self.final_learning_rate,
            "above 0, at most learning_rate",
        )
        _require(
            0 < self.vae_rate <= 1,
            "vae_rate",
            self.vae_rate,
            "a share of the learning rate, above 0 and at most 1",
        )
        _require(
            self.window_hu[0] < self.window_hu[1],
            "window_hu",
            self.window_hu,
            "low,high with low below high",
        )
        _require(
            len(self.class_prior) == 3 and all(p > 0 for p in self.class_prior),
            "class_prior",
            self.class_prior,
            "three shares above 0",
        )
        for name in (
            "filters",
            "latent_size",
            "patches_per_case",
            "batch_size",
            "num_rounds",
            "local_epochs",
            "validation_every",
            "keep_checkpoints",
        ):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(
            0 <= self.shared_candidates <= 6, "shared_candidates", self.shared_candidates, "0 to 6"
        )
        _require(
            all(s > 0 for s in self.spacing_mm),
            "spacing_mm",
            self.spacing_mm,
            "three lengths above 0 mm",
        )
        for name in ("patch_size", "inference_window"):
            sizes = getattr(self, name)
            _require(
                len(sizes) == 3 and min(sizes) >= 8,
                name,
                sizes,
                "three numbers of voxels, at least 8",
            )

    def to_json(self) -> dict[str, Any]:
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }


def plan(config: ExperimentConfig, genotype_json: dict[str, Any]) -> dict[str, Any]:
    """Returns what every site of a federation must have the same, as nested JSON-able values.

    The genotype travels as its content, so that two files of one name with other cells are told
    apart.
    """
    return {
        "genotype": genotype_json,
        "vae": {"kind": config.vae, "latent_size": config.latent_size, "kl": config.kl},
        "classes": {str(value): name for value, name in CLASSES.items()},
        "spacing_mm": list(config.spacing_mm),
        "window_hu": list(config.window_hu),
        "patch": {
            "size": list(config.patch_size),
            "per_case": config.patches_per_case,
            "foreground_fraction": config.foreground_fraction,
            "tumour_fraction": config.tumour_fraction,
        },
        "augmentation": {
            "flip_axes": sorted(config.flip_axes),
            "intensity_scale": config.intensity_scale,
            "intensity_shift": config.intensity_shift,
        },
        "training": {
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "final_learning_rate": config.final_learning_rate,
            **({"vae_rate": config.vae_rate} if config.vae_rate != 1.0 else {}),
            **_missing_labels(config),
            **({"shared_candidates": config.shared_candidates} if config.shared_candidates else {}),
        },
        "schedule": {
            "num_rounds": config.num_rounds,
            "local_epochs": config.local_epochs,
            "validation_every": config.validation_every,
        },
        "inference": {
            "window": list(config.inference_window),
            "overlap": config.inference_overlap,
            "blending": config.inference_blending,
        },
    }


def _missing_labels(config: ExperimentConfig) -> dict[str, Any]:
    """As it was before there was a choice, a plan says nothing of it: an earlier release's plan is
    the same then.
    """
    if config.missing_labels == "background":
        return {}
    return {"missing_labels": config.missing_labels, "absence_evidence": config.absence_evidence}


def _require(holds: bool, name: str, value: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}; expected {expected}")
