from tests.benchmarks import push_trace


def test_the_trace_of_an_update_covers_the_servers_files_and_not_the_sites():
    files = push_trace.one_push().files
    assert {
        "federated/server/uploads.py",
        "federated/aggregation/update_checks.py",
        "federated/storage/store.py",
    } <= files
    assert not any(file.startswith("federated/site/") for file in files)
