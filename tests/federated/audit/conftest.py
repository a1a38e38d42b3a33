import pytest
from cryptography import x509

from federated.audit import log as audit_log
from tests.federated import toy
from tests.federated.audit.kept_rounds import keep_round


@pytest.fixture
def authority(kits):
    return x509.load_pem_x509_certificate((kits / "server" / "ca.pem").read_bytes())


@pytest.fixture
def store(tmp_path, kits, clock):
    """Three rounds, of which the updates of the last two are kept."""
    folder = tmp_path / "store"
    for name in ("kept", "global"):
        (folder / name).mkdir(parents=True)
    log = audit_log.AuditLog(
        folder / "events.jsonl", clock=clock, key=kits / "server" / "server.key"
    )
    log.append("started", certificate=(kits / "server" / "server.pem").read_text())
    for number in (1, 2, 3):
        keep_round(folder, log, number, keep_updates=number > 1)
    return folder


@pytest.fixture
def whole(serving, take_part):
    """The store of a finished run."""
    running = serving()
    trainers = {site: toy.ToyTrainer(site) for site in ("C1", "C2")}
    take_part({site: running.connect(site) for site in trainers}, trainers)
    running.join()
    return running.folder
