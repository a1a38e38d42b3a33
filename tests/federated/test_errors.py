import pathlib

import pytest

from federated import errors

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.FederationError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_is_found_by_its_name(kind):
    assert errors.by_name(kind.__name__) is kind


@pytest.mark.parametrize("name", ["", "ValueError", "Reason", "RETRYABLE", "by_name", "Sequence"])
def test_a_name_that_is_no_error_of_this_package_is_unknown(name):
    assert errors.by_name(name) is None


def test_errors_that_pass_by_themselves_are_worth_another_try_and_no_others():
    """Each error type states it explicitly."""
    retried = {kind for kind in KINDS if issubclass(kind, errors.RETRYABLE)}
    assert {kind.__name__ for kind in retried} == {
        "ServerUnreachable",
        "CertificateOutOfDate",
        "DamagedTransfer",
        "StorageTrouble",
        "TooManyCalls",
    }


def test_a_server_that_misbehaves_is_named_with_the_remedy_and_not_restarted():
    reason = errors.Reason("stem/kernel", "differs", "shape")
    error = errors.ServerMisbehaves.because("sends a chunk twice", reasons=[reason])
    assert str(error).startswith("the server sends a chunk twice; tell its operator")
    assert error.reasons == (reason,)
    assert error.exit_code == 76  # os.EX_PROTOCOL, where there is one
    own = {errors.ServerMisbehaves, errors.PolicyRefused, errors.AnswersUsedUp}
    assert {kind.exit_code for kind in KINDS if kind not in own} == {1}


@pytest.mark.parametrize("kind", [errors.PolicyRefused, errors.AnswersUsedUp])
def test_what_only_people_can_decide_ends_the_program_for_good(kind):
    assert kind("spent").exit_code == 77  # os.EX_NOPERM, where there is one
    unit = pathlib.Path(__file__).parents[2] / "docs" / "deployment" / "federation-site.service"
    assert "\nRestartPreventExitStatus=76 77\n" in unit.read_text()
