from federated.doctor import diagnosis as doctor


def test_the_table_shows_mark_finding_and_remedy():
    findings = [
        doctor.good("kit", "whole"),
        doctor.fault("port", "nothing is there", "start the server"),
        doctor.skipped("TLS", "after port"),
    ]
    assert doctor.table(findings).splitlines() == [
        "✓ kit   whole",
        "✗ port  nothing is there",
        "        → start the server",
        "- TLS   after port",
        "",
        "3 checks: 1 fault, no warnings, 1 not reached",
    ]
    assert [finding.to_json()["state"] for finding in findings] == ["good", "fault", "skipped"]
    long = doctor.table([doctor.warning("kit", "word " * 60, "way out " * 30)], width=80)
    assert max(map(len, long.splitlines())) <= 81
