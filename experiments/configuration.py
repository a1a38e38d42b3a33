"""The settings of an experiment: frozen values, checked once, stored with every result.

This module reads no flags and needs no TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from c2fnas import array_groups, genotype
from c2fnas.allowed_values import (
    CLIP_NORM,
    OVERLAP,
    PROXIMAL_WEIGHT,
    VAE_RATE,
    Blending,
    InstanceNorm,
    KlKind,
    NonFinite,
    Precision,
    Treatment,
    VaeKind,
)
from c2fnas.search.operation_space import SEARCHED
from federated.aggregation import rules
from federated.rounds.sharing import ShareRules
from federated.server.config import ServerConfig
from runkit import settings
from runkit.classes import CLASSES
from runkit.settings import SHARE, Condition, at_least, setting

# The parts of a plan that decide the scores of a trained model.
_EVALUATED = ("genotype", "classes", "spacing_mm", "window_hu", "inference")
_VOXELS = Condition(
    lambda sizes: len(sizes) == 3 and min(sizes) >= 8, "three numbers of voxels, at least 8"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything that decides the numbers of a run. The defaults are the paper's.

    Each field declares its flag, default, help text and check. Sites of one federation must agree
    on all that `plan` returns. Flag files list the settings in the order of the fields.
    """

    profile: str = setting(
        "paper",
        "Name of this group of settings, stored with every result. Choose one by its flag file, "
        "e.g. --flagfile=experiments/flagfiles/demo.flags.",
    )
    seed: int = setting(
        1,
        "Seed of the initial weights, patches, latent noise, splits and the synthetic cohort.",
    )
    # the network
    genotype: str = setting(
        "c2fnas", "Name of a built-in genotype, or path of a genotype's JSON file."
    )
    filters: int = setting(
        32, "Filters at full resolution; each level doubles them.", condition=at_least(1)
    )
    supernet: bool = setting(
        False,
        "Train the supernet of --genotype's topology instead: every cell holds all operations, and "
        "each step trains one path. init_model, serve, join, train_pooled, search_federated and "
        "dryrun take it; see docs/search.md.",
        later=True,
    )
    vae: Literal[VaeKind, "none"] = setting(
        "reduced",
        "VAE branch at the encoder's end. 'reduced' applies a stride-2 convolution to 16 channels "
        "before the dense layers (Myronenko 2018); 'direct' flattens the encoder's end; 'none' "
        "omits the branch.",
    )
    latent_size: int = setting(128, "Size of the VAE's latent vector.", condition=at_least(1))
    classifier_bias: Literal["zero", "log_prior"] = setting(
        "zero",
        "Initial bias of the classifier: 0, or the logarithm of --class_prior.",
    )
    class_prior: tuple[float, ...] = setting(
        (0.985, 0.012, 0.003),
        "Shares of background, pancreas and tumour voxels, for --classifier_bias=log_prior.",
        condition=Condition(
            lambda prior: len(prior) == len(CLASSES) and all(share > 0 for share in prior),
            f"{len(CLASSES)} shares above 0, one per class",
        ),
    )
    # voxels
    spacing_mm: tuple[float, float, float] = setting(
        (1.0, 1.0, 1.0),
        "Spacing of the training grid along x,y,z in mm.",
        condition=Condition(
            lambda mm: len(mm) == 3 and all(length > 0 for length in mm),
            "three lengths above 0 mm",
        ),
    )
    window_hu: tuple[float, float] = setting(
        (-200, 250),  # int: flag files of earlier runs hold the text "-200,250"
        "Intensity window low,high in HU, mapped to [-1, 1].",
        condition=Condition(lambda window: window[0] < window[1], "low,high with low below high"),
    )
    # patches
    patch_size: tuple[int, int, int] = setting(
        (96, 96, 96), "Size of a training patch in voxels x,y,z.", condition=_VOXELS
    )
    patches_per_case: int = setting(
        4, "Patches drawn per training case and epoch.", condition=at_least(1)
    )
    foreground_fraction: float = setting(
        0.5, "Share of patches centred on pancreas or tumour.", condition=SHARE
    )
    tumour_fraction: float = setting(
        0.0, "Share of those patches centred on tumour; the paper uses 0.", condition=SHARE
    )
    flip_axes: tuple[str, ...] = setting(
        (),
        "Augmentation: axes along which patches are flipped at random, e.g. x,z. The paper flips "
        "none.",
        condition=Condition(
            lambda axes: len(set(axes) & set("xyz")) == len(axes), "some of x, y, z, each once"
        ),
    )
    intensity_scale: float = setting(
        0.0,
        "Augmentation: multiply a patch by a random factor between 1 - s and 1 + s.",
        condition=Condition(lambda scale: 0 <= scale < 1, "0 up to, not including, 1"),
    )
    intensity_shift: float = setting(
        0.0,
        "Augmentation: add a random value between -s and s to a patch; the window is 2 wide.",
        condition=Condition(lambda shift: 0 <= shift <= 2, "0 to 2, the width of the window"),
    )
    batch_size: int = setting(
        8, "Patches per step over all devices together.", condition=at_least(1)
    )
    # optimisation
    learning_rate: float = setting(1e-4, "Adam's learning rate at the first step.")
    final_learning_rate: float = setting(
        1e-5,
        "Learning rate at the last step, reached by cosine annealing over the whole training.",
    )
    vae_rate: float = setting(
        1.0,
        "Learning rate of the VAE branch as a share of --learning_rate. Lower it where the rate is "
        "far above the paper's 1e-4: the branch's decoder has no normalisation and overshoots.",
        condition=VAE_RATE,
        later=True,
    )
    vae_weight: float = setting(
        1.0,
        "Weight of the VAE branch's two losses, as a share of the paper's 0.2 (KL) and 0.3 (L2). "
        "Lower it where the branch's gradient outweighs the segmentation's in the shared encoder.",
        condition=Condition(
            lambda share: 0 < share <= 1,
            "a share of the paper's weights, above 0 and at most 1; for no branch: --vae=none",
        ),
        later=True,
    )
    kl: KlKind = setting(
        "voxels",
        "Divisor of the KL term: the voxels of a patch (Myronenko 2018) or the latent size.",
    )
    missing_labels: Treatment = setting(
        "background",
        "How a federated site's loss treats classes that its labels never show "
        "(`declared_labels` in its manifest). 'background', as in the paper: absent everywhere. "
        "'exclude': left out of the Dice. 'restricted': left out of the softmax. 'marginal': a "
        "voxel may be its drawn class or a missing one. 'distil': taken from the received model. "
        "See docs/missing-labels.md.",
        later=True,
    )
    absence_evidence: bool = setting(
        False,
        "With --missing_labels=restricted, marginal or distil: where no patient of a site has a "
        "class (declared `absent`), penalise the voxels in which the received model finds it.",
        later=True,
    )
    shared_candidates: int = setting(
        0,
        "Number of local models (at most 6, 0 for none) that a site without labels of every class "
        "lends, so that the best is chosen on the validation cases of all sites: the row "
        "<site>_FL_local_shared. <site>_FL_local stays the best by the site's own validation.",
        condition=Condition(
            lambda number: 0 <= number <= 6,  # a site lends these beside its other models
            "0 to 6",
        ),
        later=True,
    )
    proximal_weight: float = setting(
        0.0,
        "FedProx: weight (mu of Li et al. 2020) of the proximal term, which keeps a site's "
        "training close to the model it received. 0 omits the term. Try 0.001 to 1 if the sites' "
        "data differ widely or a round has many epochs. A baseline receives no model and has no "
        "such term.",
        condition=PROXIMAL_WEIGHT,
        later=True,
    )
    keep_at_site: tuple[str, ...] = setting(
        (),
        "Arrays that never leave a site; every site has its own. Names of groups ('norms' as in "
        "FedBN, 'head', 'vae') or patterns of array names such as cell03/*, separated by commas. "
        "See docs/federation.md.",
        later=True,
    )
    only_receive: tuple[str, ...] = setting(
        (),
        "Arrays that sites take from the server, do not train and never send, so that they stay as "
        "in the initial model. Groups and patterns as for --keep_at_site.",
        later=True,
    )
    # how a site computes, with which safeguards: its own choice, like its GPUs, so not in the plan
    precision: Precision = setting(
        "float32",
        "Number format of the convolutions. The mixed formats halve a GPU's memory and use its "
        "matrix units; weights, norms and losses stay float32. 'mixed_bfloat16' needs an Ampere "
        "GPU or later; 'mixed_float16' scales the loss. On a CPU keep 'float32'.",
    )
    tf32: bool = setting(
        True,
        "GPUs from Ampere on: round the inputs of float32 convolutions to TF32, as TensorFlow and "
        "PyTorch do by default. A rerun gives the same bits either way; with --notf32 they are "
        "closer to those of a processor or an older GPU. Without effect elsewhere.",
        later=True,
    )
    deterministic: bool = setting(
        True,
        "Use only deterministic kernels, so that a rerun gives the same bits.",
        later=True,
    )
    gpu_memory_mib: int = setting(
        0,
        "Largest memory in MiB that a program takes on each GPU. 0 sets no limit: the memory grows "
        "with the need, and programs on one GPU share it. Without effect where there is no GPU.",
        condition=at_least(0),
        later=True,
    )
    clip_norm: float = setting(
        0.0,
        "Largest global norm of the gradients; larger ones are scaled down to it. 0 never clips. "
        "Try 12 (nnU-Net's) if the loss does not recover from peaks of the logged gradient_norm.",
        condition=CLIP_NORM,
    )
    non_finite: NonFinite = setting(
        "stop",
        "What to do at a step with a non-finite loss or gradient. 'stop' ends the training, names "
        "the step and its cases, and leaves the weights unchanged; 'skip' logs and skips the step, "
        "and stops after ten in a row.",
    )
    instance_norm: InstanceNorm = setting(
        "rows",
        "Implementation of the instance norm; weights and values are the same. 'rows' is faster "
        "and more accurate on a CPU; 'library' is tensorflow-addons' InstanceNormalization "
        "(TensorFlow 2.15) or Keras' GroupNormalization (Keras 3).",
    )
    keep_checkpoints: int = setting(
        2,
        "Number of newest checkpoints to keep, in case the disk corrupts one. The best model is "
        "kept separately.",
        condition=at_least(1),
    )
    # the federation; a baseline trains num_rounds * local_epochs epochs
    num_rounds: int = setting(
        60,
        "Federated rounds; a baseline trains num_rounds * local_epochs epochs. 0 evaluates the "
        "models given to serve without training.",
        condition=at_least(0),
    )
    local_epochs: int = settings.same_as(ServerConfig, "local_epochs")
    # the server's own settings, so not in the plan; here because programs share their flag files
    aggregation: str = settings.same_as(ServerConfig, "aggregation")
    validation_every: int = setting(
        1,
        "Rounds between two validations of a site's own model, and between two global models that "
        "the sites score. The best by these scores are kept; the last of each is always scored.",
        condition=at_least(1),
    )
    # whole-volume inference
    inference_window: tuple[int, int, int] = setting(
        (160, 160, 160), "Size of the sliding window in voxels x,y,z.", condition=_VOXELS
    )
    inference_overlap: float = setting(
        0.25,
        "Overlap of neighbouring windows, as a share of their size.",
        condition=OVERLAP,
    )
    inference_blending: Blending = setting(
        "constant",
        "Weights of a window's voxels where windows overlap.",
    )

    def __post_init__(self) -> None:
        settings.check(self)
        settings.require(
            Condition(
                lambda rate: 0 < rate <= self.learning_rate, "above 0, at most learning_rate"
            ),
            "final_learning_rate",
            self.final_learning_rate,
        )
        rules.parse(self.aggregation)
        _ = self.share_rules
        if self.supernet and (self.missing_labels == "distil" or self.absence_evidence):
            raise ValueError(
                "supernet is set, and missing_labels is 'distil' or absence_evidence is on: the "
                "logits of a received supernet belong to no single network; use another "
                "missing_labels without absence_evidence"
            )

    @property
    def share_rules(self) -> ShareRules:
        """Which arrays stay at a site and which are only received, as patterns of their names.

        Raises:
          ValueError: for an empty entry.
        """
        for name in ("keep_at_site", "only_receive"):
            if not all(entry.strip() for entry in getattr(self, name)):
                raise ValueError(
                    f"{name} has an empty entry; expected groups "
                    f"({', '.join(array_groups.GROUPS)}) and patterns of array names, separated by "
                    "single commas"
                )
        return ShareRules(
            keep=array_groups.patterns(self.keep_at_site),
            receive=array_groups.patterns(self.only_receive),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as JSON values, tuples as lists."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }


def load_genotype(config: ExperimentConfig) -> genotype.Genotype:
    """Returns a configuration's genotype with its number of filters.

    Raises:
      ValueError: as `genotype.load`.
    """
    return genotype.load(config.genotype).with_size(filters=config.filters, classes=len(CLASSES))


def plan(config: ExperimentConfig, genotype_json: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that all sites of a federation must share, as nested JSON values.

    The plan holds the genotype's content rather than its name, because two files with the same name
    may differ. With 0 rounds, it holds only what an evaluation needs.
    """
    if config.num_rounds == 0:
        return evaluation_plan(plan(dataclasses.replace(config, num_rounds=1), genotype_json))
    return {
        "genotype": genotype_json,
        **({"supernet": {"operations": list(SEARCHED)}} if config.supernet else {}),
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
            **({"vae_weight": config.vae_weight} if config.vae_weight != 1.0 else {}),
            **_missing_labels(config),
            **({"proximal_weight": config.proximal_weight} if config.proximal_weight else {}),
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
        **config.share_rules.to_plan(),
    }


def evaluation_plan(trained: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a model's plan that sites must share to evaluate it.

    It describes the network (or the supernet) without its VAE branch, the preparation and the
    sliding window. How the model was trained does not matter.

    Args:
      trained: the plan that the model was trained with.
    Raises:
      ValueError: if the plan lacks a part.
    """
    missing = [name for name in _EVALUATED if name not in trained]
    if missing:
        raise ValueError(f"its plan lacks {', '.join(missing)}")
    return {
        **{name: trained[name] for name in (*_EVALUATED, "supernet") if name in trained},
        "schedule": {"num_rounds": 0},
    }


def _missing_labels(config: ExperimentConfig) -> dict[str, Any]:
    """Returns an empty dict for the default, so that the plan equals that of earlier releases."""
    if config.missing_labels == "background":
        return {}
    return {"missing_labels": config.missing_labels, "absence_evidence": config.absence_evidence}
