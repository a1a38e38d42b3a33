import pytest

from federated.security.vocabulary import Vocabulary

WORDS = {"dice": (0.0, 1.0), "volume": (-5.0, 5.0), "error": None, "ml": None, "part": None}


def vocabulary(**changes):
    return Vocabulary(**{"classes": ("liver",), "grids": ("native",), "words": WORDS, **changes})


def test_a_column_is_made_of_known_words_only():
    known = vocabulary()
    assert known.has_column("volume_error_ml_liver") and known.has_column("dice")
    for name in (
        "",
        "_",
        "dice_",
        "dice_spleen",
        "liverdice",
        "dice liver",
        "Dice_liver",
        "native",
    ):
        assert not known.has_column(name), name


def test_a_columns_name_is_short():
    known = vocabulary()
    assert known.has_column("_".join(["dice"] * 25))  # 124 characters
    assert not known.has_column("_".join(["dice"] * 26))


def test_the_first_word_with_a_range_decides():
    known = vocabulary()
    assert known.range_of("error_volume_dice") == (-5.0, 5.0)
    assert known.range_of("val/Dice_liver") == (0.0, 1.0)
    assert known.range_of("error_ml") is None and known.range_of("") is None


def test_counts_and_parts_of_a_whole():
    known = vocabulary(counts=frozenset({"part"}), parts={"part": "whole"})
    assert known.is_count("part_liver") and not known.is_count("dice_liver")
    assert known.whole_of("part_liver") == "whole_liver" and known.whole_of("dice_liver") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"words": {"mrn20231": None}},
        {"words": {"Dice": None}},
        {"words": {"a b": None}},
        {"words": {"two_words": None}},
        {"words": {"": None}},
        {"classes": ("Doe, Jane",)},
        {"grids": ("/data/doe",)},
        {"words": {f"w{chr(97 + n // 26)}{chr(97 + n % 26)}": None for n in range(65)}},
    ],
)
def test_a_word_that_could_hold_an_identifier_is_refused(changes):
    with pytest.raises(ValueError, match=r"the vocabulary has .* words"):
        vocabulary(**changes)
