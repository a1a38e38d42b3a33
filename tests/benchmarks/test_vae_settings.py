from tests.benchmarks import vae_settings


def test_a_history_gives_the_dice_by_step_and_the_highest_reconstruction():
    history = [
        {"event": "epoch", "step": 10, "reconstruction": 7.5},
        {"event": "devices"},
        {"event": "epoch", "step": 20, "reconstruction": 0.5},
        {"event": "validation", "step": 20, "dice": 0.25},
    ]
    assert vae_settings.result(history) == {"dice": {"20": 0.25}, "highest_reconstruction": 7.5}
    assert vae_settings.result([{"event": "epoch", "step": 10}])["highest_reconstruction"] is None


def test_the_table_has_a_line_per_step_and_a_column_per_variant():
    variants = {
        "--vae_rate=1": {"dice": {"50": 0.123, "100": 0.5}, "highest_reconstruction": 70.04},
        "--vae=none": {"dice": {"50": 0.2, "100": 0.7}, "highest_reconstruction": None},
    }
    assert vae_settings.table({"variants": variants}).splitlines() == [
        "| | `--vae_rate=1` | `--vae=none` |",
        "|---|---:|---:|",
        "| Dice after 50 steps | 12 | 20 |",
        "| Dice after 100 steps | 50 | 70 |",
        "| highest squared difference, mean of an epoch | 70.0 | – |",
    ]
