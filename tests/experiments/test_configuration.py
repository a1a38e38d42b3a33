import dataclasses
import math
import pathlib
import subprocess
import sys

import pytest

from experiments import configuration

FLAGFILES = pathlib.Path(__file__).parents[2] / "experiments" / "flagfiles"
VALUES = {
    "profile": "test", "seed": 1, "genotype": "c2fnas", "filters": 4, "vae": "reduced", "latent_size": 8, "classifier_bias": "zero",
    "class_prior": (0.9, 0.08, 0.02), "spacing_mm": (3.0, 3.0, 3.0), "window_hu": (-200.0, 250.0), "patch_size": (48, 48, 48),
    "patches_per_case": 1, "foreground_fraction": 0.5, "batch_size": 4, "learning_rate": 1e-3, "final_learning_rate": 1e-4,
    "kl": "voxels", "num_rounds": 2, "local_epochs": 3, "inference_window": (48, 48, 48), "inference_overlap": 0.25,
    "inference_blending": "constant",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("vae", "big", r"vae is 'big'; expected 'reduced'"),
        (
            "patch_size",
            (48, 48, 4),
            r"patch_size is \(48, 48, 4\); expected three numbers of voxels, at least 8",
        ),
        ("final_learning_rate", 1e-2, r"final_learning_rate is 0.01; expected above 0"),
        ("num_rounds", -1, "num_rounds is -1; expected at least 0"),
        ("window_hu", (250.0, -200.0), "low below high"),
        ("class_prior", (1.0, 0.0, 0.0), "3 shares above 0"),
        ("gpu_memory_mib", -1, r"gpu_memory_mib is -1; expected at least 0"),
        ("precision", "half", r"precision is 'half'; expected 'float32', 'mixed_bfloat16'"),
        ("clip_norm", -1.0, r"clip_norm is -1.0; expected a finite number above 0, or 0"),
        ("non_finite", "hope", r"non_finite is 'hope'; expected 'stop' or 'skip'"),
        ("instance_norm", "batch", r"instance_norm is 'batch'; expected 'rows' or 'library'"),
        ("flip_axes", ("x", "w"), "flip_axes is 'x,w'; expected some of x, y, z"),
        ("flip_axes", ("x", "x"), "flip_axes is 'x,x'; expected some of x, y, z, each once"),
        ("intensity_scale", 1.0, "intensity_scale is 1.0; expected 0 up to, not including, 1"),
        ("keep_checkpoints", 0, "keep_checkpoints is 0; expected at least 1"),
        ("vae_weight", 0.0, r"vae_weight is 0.0; expected a share of the paper's weights, above 0"),
        ("proximal_weight", -0.1, r"proximal_weight is -0.1; expected a number up to 1e\+06, or 0"),
        ("proximal_weight", 1e39, r"proximal_weight is 1e\+39; expected a number up to 1e\+06"),
        ("proximal_weight", math.nan, r"proximal_weight is nan; expected a number up to 1e\+06"),
        ("keep_at_site", ("norms", ""), "keep_at_site has an empty entry; expected groups"),
        ("only_receive", (" ",), "only_receive has an empty entry; expected groups"),
        ("aggregation", "fedsgd", "aggregation is 'fedsgd'; expected one of fedavg, fedavgm"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(name, value, words):
    with pytest.raises(ValueError, match=words):
        configuration.ExperimentConfig(**{**VALUES, name: value})


def test_plan_changes_with_what_sites_must_share_and_not_with_the_seed():
    config = configuration.ExperimentConfig(**VALUES)
    same = configuration.plan(dataclasses.replace(config, seed=2, profile="other"), {"cells": [1]})
    assert configuration.plan(config, {"cells": [1]}) == same
    shared = {
        "spacing_mm": (1.0, 1.0, 1.0),
        "patch_size": (96, 96, 96),
        "num_rounds": 9,
        "local_epochs": 1,
        "validation_every": 2,
        "batch_size": 8,
        "kl": "latent",
        "flip_axes": ("x",),
        "intensity_shift": 0.1,
        "vae_rate": 0.5,
        "vae_weight": 0.5,
        "proximal_weight": 0.01,
        "keep_at_site": ("norms",),
        "only_receive": ("head",),
    }
    for name, value in shared.items():
        assert (
            configuration.plan(dataclasses.replace(config, **{name: value}), {"cells": [1]}) != same
        ), name
    assert configuration.plan(config, {"cells": [2]}) != same


def test_the_plan_names_arrays_by_patterns_and_is_that_of_earlier_releases_without_them():
    config = configuration.ExperimentConfig(**VALUES)
    before = configuration.plan(config, {})
    later = {"vae_rate", "vae_weight", "proximal_weight"}
    assert "sharing" not in before and not before["training"].keys() & later
    changed = dataclasses.replace(
        config, keep_at_site=("norms", "cell03/*", "norms"), only_receive=("head",)
    )
    assert configuration.plan(changed, {}) == {
        **before,
        "sharing": {"keep": ["*/gamma", "*/beta", "cell03/*"], "receive": ["end/classifier/*"]},
    }


def _resolved(*arguments):
    """The configuration as an entry point sees it.

    absl's flags are global, so each call uses a separate process.
    """
    program = (
        "import json, sys\nfrom absl import flags\nfrom experiments import flags as f\nf.define_experiment()\nflags.FLAGS(sys.argv)\n"
        "print(json.dumps(f.experiment_config().to_json()))\nprint(f.experiment_flags_text(), file=sys.stderr)"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )


def test_paper_profile_is_the_papers_setting_and_also_the_default():
    import json

    from_file = json.loads(_resolved(f"--flagfile={FLAGFILES / 'paper.flags'}").stdout)
    assert from_file == json.loads(_resolved().stdout)
    assert (
        from_file["patch_size"] == [96, 96, 96]
        and from_file["batch_size"] == 8
        and from_file["spacing_mm"] == [1.0, 1.0, 1.0]
    )
    assert (from_file["learning_rate"], from_file["final_learning_rate"]) == (1e-4, 1e-5)
    assert (
        from_file["num_rounds"] * from_file["local_epochs"] == 600
        and from_file["local_epochs"] == 10
    )
    assert from_file["window_hu"] == [-200.0, 250.0] and from_file["latent_size"] == 128


def test_flag_text_repeats_the_configuration(tmp_path):
    first = _resolved(
        f"--flagfile={FLAGFILES / 'demo.flags'}", "--seed=3", "--class_prior=0.9,0.09,0.01"
    )
    again = tmp_path / "again.flags"
    again.write_text(first.stderr)
    assert _resolved(f"--flagfile={again}").stdout == first.stdout


def test_a_run_of_an_earlier_release_has_the_same_flag_text_under_its_rule():
    text = _resolved().stderr
    for name in ("aggregation", "vae_weight", "proximal_weight", "keep_at_site", "only_receive"):
        assert name not in text
    assert "--aggregation=fedavgm\n" in _resolved("--aggregation=fedavgm").stderr


def test_a_wrong_flag_is_a_usage_error_that_names_it():
    result = _resolved("--patch_size=48,48")
    assert result.returncode != 0 and "--patch_size is '48,48'; expected 3 numbers" in result.stderr
