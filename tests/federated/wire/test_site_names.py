import pytest

from federated.wire import site_names


@pytest.mark.parametrize("name", ["C1", "7", "a-b_c", "a" * 32])
def test_a_site_can_have_a_short_name_of_letters_digits_and_two_signs(name):
    site_names.check_site_name(name)


@pytest.mark.parametrize("name", ["", "-a", "_a", "a b", "a.b", "../a", "ä", "C1\n", "a" * 33])
def test_a_name_that_a_path_a_row_or_a_certificate_could_not_hold_is_refused(name):
    with pytest.raises(
        ValueError, match="cannot be used; letters, digits, '_' and '-', at most 32"
    ):
        site_names.check_site_name(name)


def test_the_name_of_another_member_is_refused_in_any_case():
    for name in (*site_names.RESERVED, "Server", "OPERATOR"):
        with pytest.raises(ValueError, match="not server, operator or authority"):
            site_names.check_site_name(name)
