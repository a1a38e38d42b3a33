"""A server that answers whatever a test specifies.

It uses real gRPC over mutual TLS, with a kit that sites trust, but it need not be honest.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc

from federated.security import tls
from federated.tensors import codec
from federated.tensors.tensor_files import TensorFile, save
from federated.wire import conversion, operation_pb2
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import Offer
from tests.federated import toy
from tests.federated.manifests import manifest_of

LOGIN = {
    "token": "t" * 43,
    "expires_at": 2e9,
    "run": "0123456789abcdef",
    "plan_fingerprint": hashlib.sha256(b"plan").hexdigest(),
    "num_rounds": 3,
    "local_epochs": 10,
    "poll_s": 0.1,
    "heart_beat_s": 60.0,
    "transport": "raw",
}
UNPRINTABLE = "\x1b[2J\x1b[31mforged\r\nI0101 event=pushed site=C2\u202ereversed\u2028\x00"
_STREAMS_IN, _STREAMS_OUT = ("Send", "SubmitRows"), ("Pull",)


class FakeServer:
    """Answers like an honest server that has one toy model, except where a test sets `answers`.

    Attributes:
      answers: method -> function of (request as bytes or an iterator of bytes, context); returns a
        message, bytes, or for Pull an iterator of them.
      tasks: handed out one by one; then the run is finished.
      repeat: a task that is handed out repeatedly instead.
      received: (method, request) of every call, in order; for a client stream, the list of its
        messages.
    """

    def __init__(self, folder, arrays=None):
        self.arrays = toy.INITIAL if arrays is None else arrays
        self._path = folder / "fake.safetensors"
        save(self._path, self.arrays)
        self.answers: dict[str, Callable] = {}
        self.login = dict(LOGIN)
        self.tasks: list[pb.Task] = []
        self.repeat: pb.Task | None = None
        self.received: list[tuple[str, object]] = []
        self._lock = threading.Lock()

    def service(self, details):
        name = details.method.rpartition("/")[2]
        if name in _STREAMS_IN:
            return grpc.stream_unary_rpc_method_handler(
                lambda stream, context: self._answer(name, list(stream), context)
            )
        if name in _STREAMS_OUT:
            return grpc.unary_stream_rpc_method_handler(
                lambda request, context: self._pull(request, context)
            )
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._answer(name, request, context)
        )

    def _answer(self, name, request, context):
        with self._lock:
            self.received.append((name, request))
        answer = self.answers.get(name, getattr(self, f"_{name.lower()}", None))(request, context)
        return answer if isinstance(answer, bytes) else answer.SerializeToString()

    def _pull(self, request, context):
        with self._lock:
            self.received.append(("Pull", request))
        for answer in self.answers.get("Pull", self.chunks)(request, context):
            yield answer if isinstance(answer, bytes) else answer.SerializeToString()

    def calls(self, *names):
        """Returns the names of the calls so far that are among `names`."""
        with self._lock:
            return [name for name, _ in self.received if name in names]

    def requests(self, name):
        with self._lock:
            return [request for called, request in self.received if called == name]

    # What an honest server says.

    def _login(self, request, context):
        return pb.LoginReply(**self.login)

    def _nexttask(self, request, context):
        with self._lock:
            return self.repeat or (self.tasks.pop(0) if self.tasks else pb.Task(kind="finished"))

    def _heartbeat(self, request, context):
        return pb.Acknowledgement()

    _reportscores = _declaremodels = _submitrows = _heartbeat

    def _describe(self, request, context):
        return conversion.header_to_message(
            Offer(manifest_of(self.arrays), model=pb.ModelName.FromString(request).model)
        )

    def chunks(self, request, context) -> Iterator[pb.Chunk]:
        with TensorFile(self._path) as file:
            for chunk in codec.chunks(file):
                yield pb.Chunk(index=chunk.index, data=bytes(chunk.data), encoding=chunk.encoding)

    def _offer(self, request, context):
        offer = pb.ModelHeader.FromString(request)
        return pb.OfferReply(
            receipt=pb.Receipt(
                site="C1", what=offer.model or f"round_{offer.round:03d}", sha256=offer.sha256
            )
        )

    def _asksum(self, request, context):
        key = pb.SumKey(
            site="C1",
            sealing_key=b"s" * 32,
            masking_key=b"m" * 32,
            certificate=b"c" * 600,
            signature=b"g" * 70,
        )
        share = pb.SumShare(site="C2", data=b"d" * 160)
        return pb.SumReply(
            keys=[key], shares=[share], survivors=["C1"], dropped=["C2"], consents=[share]
        )

    def _postsum(self, request, context):
        return pb.Acknowledgement()

    # Of the operator's service.

    def _probe(self, request, context):
        return operation_pb2.ProbeReply(
            time=1e9,
            protocol=2,
            release="1.0",
            standing="welcome",
            model_bytes=100,
            plan_json="{}",
            log_lines=1,
            log_head="0" * 64,
        )


@contextlib.contextmanager
def serving(fake, kit) -> Iterator[int]:
    """Serves in the block; yields the port."""
    server = grpc.server(
        futures.ThreadPoolExecutor(8),
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ],
    )
    server.add_generic_rpc_handlers((fake,))
    port = server.add_secure_port("127.0.0.1:0", tls.Identity.of(kit, "server").for_server())
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()
