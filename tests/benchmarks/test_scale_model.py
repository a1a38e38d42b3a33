import dataclasses

import pytest

from tests.benchmarks import scale_model
from tests.benchmarks.scale_model import Study

SERVER = scale_model.Server(
    round_s=0.003,
    site_s=0.002,
    pair_s=0.00001,
    mb_s=0.01,
    moving_s=0.01,
    ask_s=0.0001,
    idle_mib=80,
    site_mib=0.5,
    transfer_mib=4,
    log_kb=1.5,
    start_kb=5,
    fixed_s=0.25,
    crowded=2,
)
STUDY = Study(sites=1, model_mb=10, training_s=100, down=10, up=5, server_link=1000)


def ends(study, rate=1000.0, **changes):
    return sorted(scale_model.finish_times(dataclasses.replace(study, **changes), rate))


def test_one_site_downloads_trains_and_uploads():
    assert ends(STUDY) == pytest.approx([1 + 100 + 2])


def test_two_transfers_share_the_server_evenly():
    # 5 MB/s each way for each: 2 s, and 2 s up, which the site's own link allows.
    assert ends(STUDY, 10.0, sites=2) == pytest.approx([104, 104])


def test_quick_transfers_wait_for_a_slot():
    # One after the other: down by 1, 2 and 3 s, up from 101 s on, 2 s each.
    found = ends(STUDY, sites=3, transfers_at_once=1)
    assert found == pytest.approx([103, 105, 107])


def test_a_slow_transfer_holds_its_slot_for_five_seconds():
    # 1 MB/s: 10 s down. The slots lapse at 5 and 10 s, so the downloads end at 10, 15 and 20 s.
    found = ends(STUDY, sites=3, transfers_at_once=1, down=1.0)
    assert found == pytest.approx([112, 117, 122])


def test_no_transfer_waits_for_more_than_half_a_minute():
    # 500 MB at 10 MB/s: 50 s in a slot that does not lapse; the other two start after 30 s.
    found = ends(STUDY, sites=3, transfers_at_once=1, model_mb=500, up=1000.0)
    downloads = [moment - 100 for moment in found]
    assert downloads[0] == pytest.approx(50.5) and downloads[1] == pytest.approx(80.5)
    assert downloads[2] == pytest.approx(81)


def test_what_a_round_costs_by_hand():
    study = dataclasses.replace(STUDY, sites=4, rounds=10, stragglers=0.25, slower=3.0)
    found = scale_model.predict(study, SERVER)
    # 3 ms; 4 sites: 2 ms and 4 x 10 us each, 10 MB at 10 ms, 3 s at 10 ms; 6 questions of 100 us.
    processor_s = 0.003 + 4 * (0.002 + 0.00004 + 0.1 + 3 * 0.01) + 6 * 0.0001
    assert found.processor_s == pytest.approx(processor_s)
    assert found.sent_mb == found.received_mb == 40
    assert found.memory_mib == 80 + 4 * 0.5 + 2 * 4
    # 11 global models; the updates of the open round and of the one before; the log.
    assert found.disk_mb == pytest.approx(110 + 80 + 0.065) and found.log_mb == 0.065
    # Down in two pairs of 1 s; the straggler is in the second, trains 300 s, uploads in 2 s.
    assert found.round_s == pytest.approx(2 + 300 + 2 + 2 * processor_s + 0.25)
    assert found.counted == 4 and found.run_h == pytest.approx(10 * found.round_s / 3600)


def test_a_minimum_closes_a_round_without_stragglers():
    study = dataclasses.replace(
        STUDY, sites=4, stragglers=0.25, slower=3.0, minimum=3, wait_s=20.0, keep_globals=2
    )
    found = scale_model.predict(study, SERVER)
    assert found.counted == 3 and 120 < found.round_s < 130
    assert found.disk_mb - found.log_mb == 10 * (4 + 8)  # initial, best, newest two; 2 x 4 updates


def test_one_server_serves_as_many_sites_as_its_processor_or_link_allows():
    study = dataclasses.replace(STUDY, training_s=600.0)
    number, what = scale_model.most_sites(study, SERVER)
    assert what == "processor"

    def work(sites):
        return scale_model.processor_seconds(dataclasses.replace(study, sites=sites), SERVER)

    assert work(number) <= 300 < work(number + 1)
    slow = dataclasses.replace(study, server_link=1.0)
    assert scale_model.most_sites(slow, SERVER) == (30, "link")


def test_ten_thousand_sites_are_predicted_in_seconds():
    found = scale_model.predict(dataclasses.replace(STUDY, sites=10_000), SERVER)
    assert found.counted == 10_000 and found.round_s > 10_000 * 10 / 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [("sites", 0), ("model_mb", -1.0), ("up", 0.0), ("stragglers", 1.5), ("minimum", 2)],
)
def test_a_study_that_cannot_be_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; expected"):
        dataclasses.replace(STUDY, **{name: value})


def test_no_slot_is_refused():
    with pytest.raises(ValueError, match="transfers_at_once is 0; expected 1 or more"):
        dataclasses.replace(STUDY, transfers_at_once=0)
