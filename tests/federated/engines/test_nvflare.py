import pytest

pytest.importorskip("nvflare", reason="NVFLARE is not installed; it is the extra [nvflare]")

from tests.federated.engines import nvflare_federation, seeded


def test_three_rounds_give_the_bits_of_our_own_service(running, check_globals, tmp_path):
    initial = seeded.write_initial(tmp_path / "initial.safetensors")
    check_globals(nvflare_federation.lead(running("nvflare"), initial, num_rounds=3))
