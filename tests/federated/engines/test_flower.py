import pytest

pytest.importorskip("flwr", reason="Flower is not installed; it is the extra [flower]")


from tests.federated.engines import flower_federation, seeded


def test_three_rounds_give_the_bits_of_our_own_service(running, kits, check_globals, tmp_path):
    initial = seeded.write_initial(tmp_path / "initial.safetensors")
    check_globals(flower_federation.lead(running("flower"), kits, initial, num_rounds=3))
