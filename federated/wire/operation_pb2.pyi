from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ProbeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("time", "protocol", "release", "standing", "model_bytes", "plan_json", "log_lines", "log_head")
    TIME_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    MODEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    LOG_LINES_FIELD_NUMBER: _ClassVar[int]
    LOG_HEAD_FIELD_NUMBER: _ClassVar[int]
    time: float
    protocol: int
    release: str
    standing: str
    model_bytes: int
    plan_json: str
    log_lines: int
    log_head: str
    def __init__(self, time: _Optional[float] = ..., protocol: _Optional[int] = ..., release: _Optional[str] = ..., standing: _Optional[str] = ..., model_bytes: _Optional[int] = ..., plan_json: _Optional[str] = ..., log_lines: _Optional[int] = ..., log_head: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("status_json",)
    STATUS_JSON_FIELD_NUMBER: _ClassVar[int]
    status_json: str
    def __init__(self, status_json: _Optional[str] = ...) -> None: ...

class OrderRequest(_message.Message):
    __slots__ = ("kind", "site", "round")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    kind: str
    site: str
    round: int
    def __init__(self, kind: _Optional[str] = ..., site: _Optional[str] = ..., round: _Optional[int] = ...) -> None: ...

class OrderReply(_message.Message):
    __slots__ = ("answer",)
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    answer: str
    def __init__(self, answer: _Optional[str] = ...) -> None: ...
