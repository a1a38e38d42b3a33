"""experiments.join, which also writes every byte that it hands to gRPC to a file:
`python -m tests.experiments.tapped_join --tap=sent.bin <flags>`.
"""

from __future__ import annotations

from absl import flags

from experiments import join, program
from federated.errors import FederationError
from federated.site.grpc_transport import GrpcTransport
from federated.wire import chunk_encoding

flags.DEFINE_string("tap", None, "The file.")


def main(argv: list[str]) -> int:
    encode, ask = chunk_encoding.part_to_bytes, GrpcTransport._ask
    with open(flags.FLAGS.tap, "ab") as tap:

        def part_to_bytes(part):
            data = encode(part)
            tap.write(data)
            return data

        def _ask(self, method, request, reply, **named):
            tap.write(request.SerializeToString())
            return ask(self, method, request, reply, **named)

        chunk_encoding.part_to_bytes, GrpcTransport._ask = part_to_bytes, _ask
        return join.main(argv)


if __name__ == "__main__":
    program.run(
        main,
        required=["kit", "site_folder", "tap"],
        expected=(FederationError,),
    )
