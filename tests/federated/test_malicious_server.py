"""A site with a malicious server.

Only the journal's own files are written, and the loop ends with one clear error.
"""

import json
import math

import numpy as np
import pytest

from federated import errors
from federated.rounds import tasks
from federated.site import grpc_transport, retries
from federated.site import loop as site_loop
from federated.site.answers import AnswerLimits
from federated.tensors import codec, tensor_files, weights
from federated.wire import conversion
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import Offer
from tests.benchmarks import peak_memory
from tests.federated import fake_server, toy
from tests.federated.fake_server import UNPRINTABLE

BAD_NAMES = [
    "../cases/case001/label",
    "x/../../../cases/case001/label",
    "/tmp/absolute",
    "..",
    "",
    "a/b",
    "a\\b",
    "a\x00b",
    "a\nb",
    "CON.txt",
    "x" * 65,
    "-rf",
    ".hidden",
    "modèle",
    UNPRINTABLE,
]


@pytest.fixture
def fake(tmp_path):
    return fake_server.FakeServer(tmp_path)


@pytest.fixture
def join(fake, kits, tmp_path):
    """Runs C1's loop against the fake server, in a folder with a bait; returns the trainer."""
    bait = tmp_path / "site" / "cases" / "case001" / "label.json"
    bait.parent.mkdir(parents=True)
    bait.write_text("the site's own")
    pauses = []

    def run(trainer=None, *, longest=50, **limits):
        trainer = trainer or toy.ToyTrainer("C1")

        def pause(seconds):
            pauses.append(seconds)
            if len(pauses) > longest:
                raise KeyboardInterrupt  # stops a loop that would go on forever

        with fake_server.serving(fake, kits / "server") as port:
            transport = grpc_transport.connect(kits / "C1", host="localhost", port=port)
            trainer.summary = site_loop.run(
                trainer,
                transport,
                tmp_path / "site" / "journal",
                limits=AnswerLimits(**limits),
                pause=pause,
            )
        return trainer

    run.journal, run.pauses = tmp_path / "site" / "journal", pauses
    yield run
    assert bait.read_text() == "the site's own"
    assert {path.name for path in tmp_path.joinpath("site").iterdir()} == {"cases", "journal"}
    if run.journal.exists():
        own = {
            "journal.json",
            "answers.json",
            "events.jsonl",
            "incoming.safetensors",
            "update.safetensors",
            "model.safetensors",
            "rows",
        }
        assert {path.name for path in run.journal.iterdir()} <= own


def refused(join, match, **named):
    with pytest.raises(errors.ServerMisbehaves, match=match) as caught:
        join(**named)
    text = str(caught.value)
    assert (
        text.isprintable()
        and text.startswith("the server ")
        and "tell its operator" in text
        and len(text) < 4000
    )
    return caught.value


def test_a_site_completes_a_run_with_the_fake_server_until_it_misbehaves(fake, join):
    fake.tasks = [
        pb.Task(kind="train", round=1, model="round_000"),
        pb.Task(kind="evaluate", models=["FL_global", "C2_baseline"]),
    ]
    trainer = join()
    assert trainer.summary.finished and trainer.calls == [
        "score",
        "train 1",
        "evaluate FL_global",
        "evaluate C2_baseline",
    ]
    assert len(fake.requests("SubmitRows")[0]) == 4


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["evaluate", "train", "score"])
def test_a_malformed_name_is_refused_before_it_is_used(fake, join, kind, name):
    where = {"models": [name]} if kind == "evaluate" else {"model": name, "round": 1}
    fake.tasks = [pb.Task(kind=kind, **where)]
    refused(join, r"model")
    assert fake.calls("Describe", "Pull", "SubmitRows") == []


def test_more_models_than_a_federation_can_have_are_refused(fake, join):
    fake.tasks = [pb.Task(kind="evaluate", models=[f"m{i}" for i in range(tasks.MAX_MODELS + 1)])]
    refused(join, rf"evaluation of {tasks.MAX_MODELS + 1} models")
    fake.tasks = [pb.Task(kind="evaluate", models=[f"m{i}" for i in range(10_000)])]
    refused(join, "evaluation of 10000 models|bytes where a Task has at most")


def test_the_bound_on_models_holds_over_several_tasks(fake, join):
    half = [[f"{letter}{i}" for i in range(150)] for letter in "ab"]
    fake.tasks = [pb.Task(kind="evaluate", models=models) for models in half]
    refused(join, "evaluation of 150 models after 150", max_evaluated_models=256)


def test_a_site_evaluates_none_of_more_models_than_it_allows(fake, join):
    trainer = toy.ToyTrainer("C1")
    fake.tasks = [pb.Task(kind="evaluate", models=[f"m{i}" for i in range(65)])]
    with pytest.raises(errors.AnswersUsedUp, match=r"65 models .* answers 64 .*models=65 or more"):
        join(trainer)
    assert trainer.calls == [] and fake.calls("Describe", "SubmitRows") == []


def test_rounds_that_are_discarded_give_no_new_answers(fake, join):
    """Otherwise a server that goes back a hundred times gets a hundred times the answers."""
    evaluate = pb.Task(kind="evaluate", models=["a", "b"])
    back = pb.Task(kind="train", round=1, model="round_000", discarded=1)
    fake.tasks = [evaluate, back, pb.Task(kind="evaluate", models=["c"])]
    trainer = toy.ToyTrainer("C1")
    with pytest.raises(errors.AnswersUsedUp, match=r"asks for 3 models .* answers 2"):
        join(trainer, max_evaluated_models=2)
    assert [call for call in trainer.calls if call.startswith("evaluate")] == [
        "evaluate a",
        "evaluate b",
    ]
    # A restart does not forget them.
    fake.tasks = [pb.Task(kind="evaluate", models=["d"])]
    with pytest.raises(errors.AnswersUsedUp, match=r"asks for 3 models"):
        join(trainer, max_evaluated_models=2)


def test_a_site_whose_count_of_answers_was_removed_does_not_begin_another(fake, join):
    fake.tasks = [pb.Task(kind="evaluate", models=["a", "b"])]
    join(max_evaluated_models=2)
    fake.received.clear()
    (join.journal / "answers.json").unlink()
    trainer = toy.ToyTrainer("C1")
    fake.tasks = [pb.Task(kind="evaluate", models=["c", "d"])]
    with pytest.raises(errors.PolicyRefused, match=r"answers\.json: is missing, so nobody knows"):
        join(trainer, max_evaluated_models=2)
    assert trainer.calls == [] == fake.received
    assert not (join.journal / "answers.json").exists()


def test_scores_of_more_global_models_than_the_site_allows_are_not_given(fake, join):
    fake.tasks = [pb.Task(kind="score", round=n, model=f"round_{n:03d}") for n in range(4)]
    trainer = toy.ToyTrainer("C1")
    fake.login["num_rounds"] = 2
    with pytest.raises(errors.ServerMisbehaves, match="the run has 2 rounds"):
        join(trainer, max_scored_models=3)
    assert trainer.calls == ["score"] * 3
    # After the discard of its round, another model comes under the name of the second one.
    fake.arrays = {**toy.INITIAL, "scale": np.array(9.0, np.float32)}
    tensor_files.save(fake._path, fake.arrays)
    fake.tasks = [
        pb.Task(kind="train", round=1, model="round_000", discarded=1),
        pb.Task(kind="score", round=1, model="round_001"),
    ]
    with pytest.raises(errors.AnswersUsedUp, match=r"asks for 4 global models .* answers 3"):
        join(trainer, max_scored_models=3)
    assert trainer.calls == ["score"] * 3 + ["train 1"]


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_round_is_trained_again_from_as_many_other_models_as_the_site_allows(fake, join, in_turn):
    """The metrics of an update hold scores on the validation cases, so it is an answer, too."""
    round_1 = pb.Task(kind="train", round=1, model="round_000")

    def another_model(request, context):
        scale = np.float32(1) - fake.arrays["scale"] if in_turn else fake.arrays["scale"] + 1
        fake.arrays = {**fake.arrays, "scale": np.asarray(scale, np.float32)}
        tensor_files.save(fake._path, fake.arrays)
        return round_1

    fake.answers["NextTask"] = another_model
    trainer = toy.ToyTrainer("C1")
    with pytest.raises(errors.AnswersUsedUp, match=r"asks for 7 updates .* answers 6 .*updates=7 "):
        join(trainer)
    assert trainer.calls.count("train 1") == 6 == len(fake.calls("Offer"))
    with pytest.raises(errors.AnswersUsedUp, match=r"asks for 7 updates"):  # also after a restart
        join(trainer)


def test_a_run_of_more_rounds_than_the_site_expects_is_refused_at_the_login(fake, join):
    fake.login["num_rounds"] = 100_000
    with pytest.raises(errors.AnswersUsedUp, match=r"100001 global models .* answers 8 "):
        join(max_scored_models=8)
    assert fake.calls("GetTask") == []


def test_a_model_named_twice_is_refused(fake, join):
    fake.tasks = [pb.Task(kind="evaluate", models=["m", "m"])]
    refused(join, "names one twice")


@pytest.mark.parametrize(
    ("number", "model"),
    [
        (999_999, "round_999998"),
        (4, "round_003"),
        (0, "round_000"),
        (-1, "round_000"),
        (2, "round_000"),
        (2, "FL_global"),
    ],
)
def test_a_round_beyond_the_run_is_not_trained(fake, join, number, model):
    fake.tasks = [pb.Task(kind="train", round=number, model=model)]
    refused(join, "round")
    assert fake.calls("Describe", "Offer") == []


def test_rounds_go_forward_also_after_a_restart(fake, join):
    fake.tasks = [
        pb.Task(kind="train", round=2, model="round_001"),
        pb.Task(kind="train", round=1, model="round_000"),
    ]
    trainer = toy.ToyTrainer("C1")
    refused(join, "training in round 1.*trained round 2 last", trainer=trainer)
    assert "train 2" in trainer.calls and "train 1" not in trainer.calls
    fake.tasks = [pb.Task(kind="train", round=1, model="round_000")]
    refused(join, "training in round 1.*trained round 2 last")


def test_the_same_round_again_is_trained_again_and_put_off_longer_each_time(fake, join):
    fake.repeat = pb.Task(kind="train", round=1, model="round_000")
    trainer = join(longest=6)
    assert not trainer.summary.finished  # stopped by the test
    assert join.pauses[:6] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]


def test_a_server_that_says_wait_without_waiting_is_not_asked_without_a_pause(fake, join):
    fake.login["poll_s"] = 5.0
    fake.repeat = pb.Task(kind="wait")
    join(longest=3)
    assert all(seconds > 0.5 for seconds in join.pauses)


def test_a_server_that_voids_a_token_after_each_answer_is_asked_more_and_more_slowly(fake, join):
    """Each login adds lines to the site's log."""

    def task(request, context):
        if len(fake.calls("NextTask")) % 2:
            context.set_trailing_metadata(((conversion.ERROR_KEY, "SessionExpired"),))
            context.abort(fake_server.grpc.StatusCode.UNAUTHENTICATED, "the token is not known")
        return pb.Task(kind="wait")

    fake.login["poll_s"] = 0.05
    fake.answers["NextTask"] = task
    join(longest=30)
    assert max(join.pauses) == 30.0 and len(fake.calls("Login")) < 30


def test_a_server_that_leads_another_run_meanwhile_gets_nothing_of_this_one(fake, join):
    """An honest one does so too, if it was started again with another store."""
    fake.tasks = [
        pb.Task(kind="train", round=1, model="round_000"),
        pb.Task(kind="train", round=1, model="round_000"),
    ]

    def login(request, context):
        fake.login["run"] = f"run{len(fake.calls('Login'))}"
        return pb.LoginReply(**fake.login)

    def offer(request, context):
        context.set_trailing_metadata(((conversion.ERROR_KEY, "SessionExpired"),))
        context.abort(fake_server.grpc.StatusCode.UNAUTHENTICATED, "the token is not known here")

    fake.answers.update(Login=login, Offer=offer)
    with pytest.raises(errors.DifferentRun, match="belongs to run run1; the server leads run run2"):
        join()
    assert len(fake.calls("Offer")) == 1


def test_a_server_that_voids_every_token_is_not_asked_without_a_pause(fake, join):
    def expired(request, context):
        context.set_trailing_metadata(((conversion.ERROR_KEY, "SessionExpired"),))
        context.abort(fake_server.grpc.StatusCode.UNAUTHENTICATED, "old")

    fake.answers["NextTask"] = expired
    join(longest=4)
    assert join.pauses == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert len(fake.calls("Login")) < 10


def huge(_request, _context):
    """A description of 1.6 MB that declares 979 MB in another shape."""
    count = 979 * 2**20 // weights.CHUNK_BYTES
    specs = (weights.TensorSpec("w", "F32", (count, 2**18)),)
    return conversion.header_to_message(
        Offer(
            weights.TensorManifest(weights.Declaration(specs), bytes(32 * count)), model="round_000"
        )
    )


def test_a_model_of_another_shape_costs_neither_disk_nor_memory(fake, join):
    fake.tasks = [pb.Task(kind="train", round=1, model="round_000")]
    fake.answers["Describe"] = huge
    before = peak_memory.reset()
    error = refused(join, r"describes model round_000 as this site's network is not")
    assert {reason.kind for reason in error.reasons} == {"missing", "not_part"}
    assert not (join.journal / "incoming.safetensors").exists() and fake.calls("Pull") == []
    assert peak_memory.peak_mib() - before < 100


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.tensors[0].shape.append(1),
        lambda d: setattr(d.tensors[0], "dtype", "F64"),
        lambda d: setattr(d.tensors[0], "name", "../x"),
        lambda d: setattr(d, "sha256", "0" * 64),
        lambda d: setattr(d, "addresses", d.addresses[:-1]),
        lambda d: setattr(d, "model", "another"),
        lambda d: d.ClearField("tensors"),
    ],
)
def test_a_description_that_is_not_of_the_model_is_refused(fake, join, change):
    def describe(request, context):
        described = fake._describe(request, context)
        change(described)
        return described

    fake.tasks = [pb.Task(kind="train", round=1, model="round_000")]
    fake.answers["Describe"] = describe
    refused(join, "describes model")
    assert not (join.journal / "incoming.safetensors").exists()


@pytest.mark.parametrize("encoding", [codec.DEFLATED, codec.HALF, 7])
def test_an_encoding_that_was_not_agreed_on_is_refused_after_one_more_login(fake, join, encoding):
    def chunks(request, context):
        yield from (
            pb.Chunk(index=chunk.index, data=chunk.data, encoding=encoding)
            for chunk in fake.chunks(request, context)
        )

    fake.tasks = [pb.Task(kind="train", round=1, model="round_000")]
    fake.answers["Pull"] = chunks
    refused(join, rf"in encoding {encoding}, but agreed on transport 'raw'")
    assert len(fake.calls("Login")) == 2


def test_a_stream_of_chunks_that_never_ends_is_not_followed(fake, join):
    def endless(request, context):
        while context.is_active():
            yield from fake.chunks(request, context)

    fake.tasks = [pb.Task(kind="train", round=1, model="round_000")]
    fake.answers["Pull"] = endless
    refused(join, "sends chunk 0 of model round_000, which was not asked for or came already")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[
            (field, value)
            for field in ("poll_s", "heart_beat_s")
            for value in (1e308, math.inf, math.nan, 0.0, -1.0, 1e-300)
        ],
        *[("expires_at", value) for value in (math.nan, math.inf, -1.0)],
        *[("num_rounds", value) for value in (-1, 2**31 - 1)],  # 0 is an evaluation
        *[("local_epochs", value) for value in (0, -1, 2**31 - 1)],
        *[("token", value) for value in ("", "short", "t" * 600, "t" * 42 + "\n", "t" * 42 + "é")],
        *[("run", value) for value in ("", "../run", UNPRINTABLE, "r" * 65)],
        *[("plan_fingerprint", value) for value in ("", "F" * 64, UNPRINTABLE)],
        *[("transport", value) for value in ("", "pickle", UNPRINTABLE)],
    ],
)
def test_a_login_reply_out_of_range_is_refused(fake, join, field, value):
    fake.login[field] = value
    error = refused(join, rf"sends a login reply whose {field} is")
    assert field != "token" or not value or value not in str(error)


@pytest.mark.parametrize(
    "change",
    [
        {"site": "C2"},
        {"what": "round_002"},
        {"what": UNPRINTABLE},
        {"sha256": "0" * 64},
        {"sha256": UNPRINTABLE},
        {"site": ""},
    ],
)
def test_a_receipt_for_something_else_is_refused_and_the_update_kept(fake, join, change):
    def offer(request, context):
        reply = fake._offer(request, context)
        for field, value in change.items():
            setattr(reply.receipt, field, value)
        return reply

    fake.tasks = [pb.Task(kind="train", round=1, model="round_000")]
    fake.answers["Offer"] = offer
    refused(join, r"gives a receipt for .*site C1 sent round_001")
    assert (join.journal / "update.safetensors").exists() and len(fake.calls("Offer")) == 1
    del fake.answers["Offer"]  # an honest one gets the same update, and nothing is trained twice
    fake.tasks = [pb.Task(kind="train", round=1, model="round_000")]
    assert "train 1" not in join().calls


@pytest.mark.parametrize(
    "missing", [[(1, 1)], [(0, 2**32 - 1)], [(0, 0)] * 100_000, [(0, 1), (0, 1)]]
)
def test_chunks_that_the_update_does_not_have_are_not_sent(fake, join, missing):
    fake.tasks = [pb.Task(kind="train", round=1, model="round_000")]
    fake.answers["Offer"] = lambda request, context: pb.OfferReply(
        missing=[pb.Range(first=first, count=count) for first, count in missing]
    )
    refused(join, "asks for chunks that round_001 does not have")
    assert fake.calls("Send") == []


@pytest.mark.parametrize(
    "method", ["Login", "NextTask", "ReportScores", "SubmitRows", "DeclareModels"]
)
@pytest.mark.parametrize(
    "reply", [b"\xff" * 10, b"\x0a\xff\xff\xff\x7f", b"\x7a\x80\x80\x20" + b"x" * 2**19]
)
def test_a_malformed_or_too_large_reply_is_refused(fake, join, method, reply):
    fake.tasks = [
        pb.Task(kind="train", round=1, model="round_000"),
        pb.Task(kind="publish"),
        pb.Task(kind="evaluate", models=["m"]),
    ]
    fake.answers[method] = lambda request, context: reply
    refused(join, "answers with")


def too_large_a_message(request, context):
    return b"x" * (conversion.MAX_MESSAGE + 1)


def too_large_a_message_compressed(request, context):
    context.set_compression(fake_server.grpc.Compression.Gzip)
    return bytes(50 * 2**20)


def too_large_an_error(request, context):
    context.set_trailing_metadata((("details", "x" * 200_000),))
    context.abort(fake_server.grpc.StatusCode.INTERNAL, "x" * 200_000)


@pytest.mark.parametrize(
    "answer", [too_large_a_message, too_large_a_message_compressed, too_large_an_error]
)
@pytest.mark.parametrize(
    "method",
    ["Login", "NextTask", "Describe", "Pull", "Offer", "Send", "ReportScores", "SubmitRows"],
)
def test_a_reply_that_grpc_does_not_carry_is_not_asked_for_again(fake, join, method, answer):
    fake.tasks = [
        pb.Task(kind="train", round=1, model="round_000"),
        pb.Task(kind="evaluate", models=["m"]),
    ]
    fake.answers[method] = (
        (lambda *asked: [answer(*asked)]) if method == "Pull" else lambda *asked: answer(*asked)
    )
    if method == "Send":
        fake.answers["Offer"] = lambda *asked: pb.OfferReply(missing=[pb.Range(first=0, count=1)])
    refused(join, r"at localhost:\d+ answers with (\d+|more) bytes where at most (\d+|4 MiB) are")
    assert len(fake.calls(method)) == 1
    assert method != "Send" or (join.journal / "update.safetensors").exists()


def test_a_call_that_the_server_does_not_know_is_not_tried_again(fake, join):
    def unknown(request, context):
        context.abort(fake_server.grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    fake.answers["NextTask"] = unknown
    with pytest.raises(
        errors.VersionDiffers, match=r"localhost:\d+: the server knows no such call"
    ):
        join()
    assert len(fake.calls("NextTask")) == 1


@pytest.mark.parametrize("chunks", [[], [pb.Chunk(data=b"x" * 3 * 2**20)], [b"\xff" * 100]])
def test_chunks_that_are_damaged_each_time_are_not_asked_for_for_ever(fake, join, chunks):
    fake.tasks = [pb.Task(kind="train", round=1, model="round_000")]
    fake.answers["Pull"] = lambda request, context: chunks
    refused(join, rf"failed {retries.MAX_DAMAGED} times to transfer what the call pull carries \(")
    assert len(fake.calls("Pull")) == retries.MAX_DAMAGED


@pytest.mark.parametrize(
    "kind", ["FederationError", "UpdateRefused", "WrongCredential", "PlanDiffers", "UnknownSite"]
)
def test_what_a_server_says_of_an_error_is_printable_and_short(fake, join, kind, caplog):
    def refuse(request, context):
        reasons = json.dumps([[UNPRINTABLE, "differs", UNPRINTABLE]] * 50)
        context.set_trailing_metadata(
            ((conversion.ERROR_KEY, kind), (conversion.REASONS_KEY, reasons))
        )
        context.abort(fake_server.grpc.StatusCode.INTERNAL, UNPRINTABLE + "x" * 20_000)

    fake.answers["NextTask"] = refuse
    with pytest.raises(errors.FederationError) as caught:
        join()
    assert (
        type(caught.value).__name__ == kind
        and str(caught.value).isprintable()
        and len(str(caught.value)) < 9_000
    )
    assert all(part.isprintable() for reason in caught.value.reasons for part in reason)


@pytest.mark.parametrize("kind", errors.NEVER_SENT)
def test_what_a_server_says_does_not_pass_for_a_decision_of_this_site(fake, join, kind):
    def refuse(request, context):
        context.set_trailing_metadata(((conversion.ERROR_KEY, kind.__name__),))
        context.abort(
            fake_server.grpc.StatusCode.INTERNAL,
            "this site answers 4; start again with --max_scored_models=4000" + "x" * 20_000,
        )

    fake.answers["NextTask"] = refuse
    error = refused(join, f"sends the error {kind.__name__}, which only a program on this machine")
    assert "(this site answers 4" in str(error) and len(str(error)) < 1000


@pytest.mark.parametrize("kind", ["publish", "evaluate", "score"])
@pytest.mark.parametrize("field", ["round", "exchange"])
def test_a_task_with_another_number_each_time_is_not_done_again_and_again(fake, join, kind, field):
    """Each would add lines to the site's log, without the pauses for a task that comes again."""
    about = {"model": "round_000"} if kind == "score" else {}
    fake.tasks = [pb.Task(kind=kind, **about)]
    fake.tasks += [pb.Task(kind=kind, **about, **{field: n}) for n in range(1, 100)]
    refused(join, rf"asks (to {kind} in exchange|to score in round 1 with model round_000)")
    assert len(fake.calls("NextTask")) == 2


def test_a_retry_is_logged_in_one_short_printable_line(fake, join, caplog):
    def fail(request, context):
        context.set_trailing_metadata(((conversion.ERROR_KEY, "StorageTrouble"),))
        context.abort(fake_server.grpc.StatusCode.RESOURCE_EXHAUSTED, UNPRINTABLE + "x" * 20_000)

    fake.answers["NextTask"] = fail
    join(longest=2)
    lines = [
        record.getMessage() for record in caplog.records if "event=retry" in record.getMessage()
    ]
    assert lines and all(line.isprintable() and len(line) < 500 for line in lines)


def test_an_unknown_task_is_named_without_its_control_characters(fake, join):
    fake.tasks = [pb.Task(kind=UNPRINTABLE)]
    refused(join, "sends a task whose kind is")
    fake.tasks = [pb.Task(kind="dance")]
    with pytest.raises(errors.VersionDiffers, match="'dance'"):
        join()


# What leaves passes the check when it leaves.


def test_rows_that_the_site_did_not_write_are_not_sent(fake, join):
    fake.tasks = [pb.Task(kind="evaluate", models=["FL_global"])]
    (join.journal / "rows").mkdir(parents=True)
    (join.journal / "rows" / "FL_global.json").write_text(json.dumps([{"patient": "Doe"}]))
    assert "evaluate FL_global" in join().calls
    assert all(b"Doe" not in message for message in fake.requests("SubmitRows")[0])


def test_scores_and_metrics_from_the_journal_pass_the_privacy_check(fake, join):
    fake.tasks = [pb.Task(kind="train", round=1, model="round_000")]
    fake.answers["Offer"] = lambda request, context: b"\xff"
    refused(join, "answers with")
    journal = json.loads((join.journal / "journal.json").read_text())
    for change, named in (
        ({"scores": {"0": {"born_19700101": 1.0}}}, "scores"),
        ({"update": {"metrics": {"Doe, Jane": 1.0}}}, "metrics"),
    ):
        changed = json.loads(json.dumps(journal))
        for key, value in change.items():
            changed[key].update(value)
        (join.journal / "journal.json").write_text(json.dumps(changed))
        fake.received.clear()
        kind = {"kind": "score", "round": 0} if named == "scores" else {"kind": "train", "round": 1}
        fake.tasks = [pb.Task(**kind, model="round_000")]
        with pytest.raises(errors.PrivacyRefused, match=named):
            join()
        assert fake.calls("ReportScores", "Offer", "Send") == []


def test_an_update_that_was_changed_on_disk_after_it_was_trained_is_not_sent(fake, join):
    class Changed(toy.ToyTrainer):
        pass

    def offer(request, context):
        # While the loop waits, somebody puts another model in the place of the update.
        path = join.journal / "update.safetensors"
        tensor_files.save(
            path, {name: np.asarray(array) + np.float32(1) for name, array in toy.INITIAL.items()}
        )
        return fake_server.pb.OfferReply(missing=[pb.Range(first=0, count=1)])

    fake.tasks = [pb.Task(kind="train", round=1, model="round_000")]
    fake.answers["Offer"] = offer
    fake.answers["Send"] = lambda stream, context: context.abort(
        fake_server.grpc.StatusCode.UNAVAILABLE, "cut"
    )
    with pytest.raises(ValueError, match="was changed since it was written"):
        join()
    sent = b"".join(fake.requests("Send")[0]) if fake.requests("Send") else b""
    changed = tensor_files.load(join.journal / "update.safetensors")[0]
    assert weights.little_endian_bytes(changed["stem/kernel"]).tobytes() not in sent
