"""Size limits of messages that grow with the plan and the model of a run.

A server checks its own run against them before it starts: no site could ever accept the run
otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from federated.errors import PlanDiffers
from federated.tensors.weights import ADDRESS_BYTES, CHUNK_BYTES, TensorSpec
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.conversion import MAX_MESSAGE

MAX_LOGIN = 512 * 2**10  # bytes of a login: the site's plan, and a few short fields
MAX_PLAN = MAX_LOGIN - 4 * 2**10  # bytes of the plan as JSON
_MAX_HEADER = MAX_MESSAGE - 64 * 2**10  # bytes of a model's header, beside an update's metrics


def check_run(plan: Mapping[str, Any], specs: Sequence[TensorSpec], *, what: str) -> None:
    """Checks that the plan and the header of a run's models fit into messages.

    Args:
      what: the file that holds them, for the message.
    Raises:
      ValueError: naming the file, the size, the limit and the remedy.
    """
    size = len(json.dumps(plan))
    if size > MAX_PLAN:
        raise ValueError(
            f"{what}: its plan takes {size} bytes as JSON, and a site can send at most {MAX_PLAN} "
            "at login; shorten the plan, and make the initial model with it again"
        )
    size = header_bytes(specs)
    if size > _MAX_HEADER:
        raise ValueError(
            f"{what}: the names, shapes and checksums of its {len(specs)} tensors take {size} "
            f"bytes, and a site accepts at most {_MAX_HEADER}; join small tensors, or give them "
            "shorter names"
        )


def header_bytes(specs: Sequence[TensorSpec]) -> int:
    """Returns the size, in bytes, of the header of a model with these tensors."""
    nbytes = sum(spec.nbytes for spec in specs)
    message = pb.ModelHeader(
        tensors=[pb.TensorSpec(name=s.name, dtype=s.dtype, shape=s.shape) for s in specs]
    )
    return message.ByteSize() + ADDRESS_BYTES * -(-nbytes // CHUNK_BYTES)


def check_login(login: pb.LoginRequest) -> None:
    """Checks at a site that a server can accept its login.

    Raises:
      PlanDiffers: if the login is too large, because no server has such a plan.
    """
    size = login.ByteSize()
    if size > MAX_LOGIN:
        raise PlanDiffers(
            f"the login of site {login.site!r} takes {size} bytes, {len(login.plan_json)} of them "
            f"for its plan; a server accepts at most {MAX_LOGIN}, so it has another plan; start "
            "the site with the settings of the server"
        )
