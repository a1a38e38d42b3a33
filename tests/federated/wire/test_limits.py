"""The limits that a server checks before it starts, and a site before it logs in."""

import json

import numpy as np
import pytest

from federated import errors
from federated.site import grpc_transport
from federated.tensors.weights import TensorSpec, canonical
from federated.wire import conversion, limits
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import Offer
from tests.federated import fake_server, manifests, toy


def plan_of(size):
    """Returns a plan that takes `size` bytes as JSON."""
    plan = {**toy.PLAN, "note": ""}
    return {**plan, "note": "x" * (size - len(json.dumps(plan)))}


def test_a_server_does_not_start_with_a_plan_that_no_site_can_send(serving, tmp_path):
    def starting(size, folder):
        initial = toy.write_initial(tmp_path / f"{size}.safetensors", plan=plan_of(size))
        return serving(folder=folder, start=initial, num_rounds=1)

    with pytest.raises(
        ValueError,
        match=rf"{limits.MAX_PLAN + 1}\.safetensors: its plan takes {limits.MAX_PLAN + 1} bytes as "
        rf"JSON, .* at most {limits.MAX_PLAN} at login; shorten the plan",
    ):
        starting(limits.MAX_PLAN + 1, "too_large")
    # At the limit a site logs in, also with the longest name and declaration.
    transport = starting(limits.MAX_PLAN, "largest").connect("C1")
    assert transport.login(plan_of(limits.MAX_PLAN), 30).num_rounds == 1
    transport.close()
    # Nothing of the refused run is there, so a shorter plan can use its folder.
    starting(limits.MAX_PLAN, "too_large")


def test_the_largest_plan_leaves_room_for_the_rest_of_a_login():
    login = pb.LoginRequest(
        site="s" * 64,
        plan_json="x" * limits.MAX_PLAN,
        num_examples=2**63 - 1,
        protocol=2**31 - 1,
        labels={f"c{number:031d}": "unlabelled" for number in range(16)},
        masking=2**31 - 1,
    )
    limits.check_login(login)


@pytest.mark.parametrize("size", [limits.MAX_LOGIN, 2**20, 5 * 2**20])
def test_a_site_with_a_plan_too_large_for_a_login_says_so_and_sends_nothing(size, kits, tmp_path):
    fake = fake_server.FakeServer(tmp_path)
    with fake_server.serving(fake, kits / "server") as port:
        transport = grpc_transport.connect(kits / "C1", host="localhost", port=port)
        with pytest.raises(
            errors.PlanDiffers,
            match=rf"login of site 'C1' takes \d+ bytes, {size} of them for its plan; a server "
            rf"accepts at most {limits.MAX_LOGIN}, .*settings of the server",
        ):
            transport.login(plan_of(size), 30)
        transport.close()
    assert fake.received == []


def test_a_run_whose_models_headers_no_site_accepts_is_refused():
    def specs(count):
        return canonical([TensorSpec(f"t{number:0500d}", "F32", (1,)) for number in range(count)])

    # Each takes 516 bytes: 501 of its name, and those of its dtype, shape and the envelopes.
    limits.check_run(toy.PLAN, specs(8000), what="m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors: the names, .* of its 8300 tensors"):
        limits.check_run(toy.PLAN, specs(8300), what="m.safetensors")


def test_the_size_of_a_header_is_that_of_the_message():
    arrays = {f"layer_{n}/kernel": np.zeros((3, 200_000 + n), np.float32) for n in range(5)}
    sent = conversion.header_to_message(Offer(manifests.manifest_of(arrays), model="m" * 64))
    about = sent.ByteSize() - limits.header_bytes(manifests.manifest_of(arrays).specs)
    assert 64 <= about < 256  # its name and digest
