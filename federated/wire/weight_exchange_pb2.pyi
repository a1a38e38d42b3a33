from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LoginRequest(_message.Message):
    __slots__ = ("site", "plan_json", "num_examples", "protocol", "labels", "masking")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SITE_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    NUM_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MASKING_FIELD_NUMBER: _ClassVar[int]
    site: str
    plan_json: str
    num_examples: int
    protocol: int
    labels: _containers.ScalarMap[str, str]
    masking: int
    def __init__(self, site: _Optional[str] = ..., plan_json: _Optional[str] = ..., num_examples: _Optional[int] = ..., protocol: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., masking: _Optional[int] = ...) -> None: ...

class LoginReply(_message.Message):
    __slots__ = ("token", "expires_at", "run", "plan_fingerprint", "num_rounds", "local_epochs", "poll_s", "heart_beat_s", "transport", "ends_with_scores", "revocation", "sums")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    PLAN_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NUM_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    POLL_S_FIELD_NUMBER: _ClassVar[int]
    HEART_BEAT_S_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    ENDS_WITH_SCORES_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    token: str
    expires_at: float
    run: str
    plan_fingerprint: str
    num_rounds: int
    local_epochs: int
    poll_s: float
    heart_beat_s: float
    transport: str
    ends_with_scores: bool
    revocation: bytes
    sums: SumRules
    def __init__(self, token: _Optional[str] = ..., expires_at: _Optional[float] = ..., run: _Optional[str] = ..., plan_fingerprint: _Optional[str] = ..., num_rounds: _Optional[int] = ..., local_epochs: _Optional[int] = ..., poll_s: _Optional[float] = ..., heart_beat_s: _Optional[float] = ..., transport: _Optional[str] = ..., ends_with_scores: bool = ..., revocation: _Optional[bytes] = ..., sums: _Optional[_Union[SumRules, _Mapping]] = ...) -> None: ...

class SumRules(_message.Message):
    __slots__ = ("threshold", "max_sites", "value_range", "fraction_bits")
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_SITES_FIELD_NUMBER: _ClassVar[int]
    VALUE_RANGE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_BITS_FIELD_NUMBER: _ClassVar[int]
    threshold: int
    max_sites: int
    value_range: float
    fraction_bits: int
    def __init__(self, threshold: _Optional[int] = ..., max_sites: _Optional[int] = ..., value_range: _Optional[float] = ..., fraction_bits: _Optional[int] = ...) -> None: ...

class TaskRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Task(_message.Message):
    __slots__ = ("kind", "round", "model", "models", "discarded", "exchange")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    round: int
    model: str
    models: _containers.RepeatedScalarFieldContainer[str]
    discarded: int
    exchange: int
    def __init__(self, kind: _Optional[str] = ..., round: _Optional[int] = ..., model: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ..., discarded: _Optional[int] = ..., exchange: _Optional[int] = ...) -> None: ...

class HeartBeatRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelName(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("first", "count")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("model", "sha256", "chunks")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    model: str
    sha256: str
    chunks: _containers.RepeatedCompositeFieldContainer[Range]
    def __init__(self, model: _Optional[str] = ..., sha256: _Optional[str] = ..., chunks: _Optional[_Iterable[_Union[Range, _Mapping]]] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class ModelHeader(_message.Message):
    __slots__ = ("model", "round", "num_examples", "metrics", "sha256", "tensors", "addresses", "discarded")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NUM_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    model: str
    round: int
    num_examples: int
    metrics: _containers.ScalarMap[str, float]
    sha256: str
    tensors: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    addresses: bytes
    discarded: int
    def __init__(self, model: _Optional[str] = ..., round: _Optional[int] = ..., num_examples: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., sha256: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., addresses: _Optional[bytes] = ..., discarded: _Optional[int] = ...) -> None: ...

class OfferReply(_message.Message):
    __slots__ = ("receipt", "missing", "trained_from")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FROM_FIELD_NUMBER: _ClassVar[int]
    receipt: Receipt
    missing: _containers.RepeatedCompositeFieldContainer[Range]
    trained_from: str
    def __init__(self, receipt: _Optional[_Union[Receipt, _Mapping]] = ..., missing: _Optional[_Iterable[_Union[Range, _Mapping]]] = ..., trained_from: _Optional[str] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("index", "data", "encoding")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    index: int
    data: bytes
    encoding: int
    def __init__(self, index: _Optional[int] = ..., data: _Optional[bytes] = ..., encoding: _Optional[int] = ...) -> None: ...

class ModelPart(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: ModelHeader
    chunk: Chunk
    def __init__(self, header: _Optional[_Union[ModelHeader, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("site", "what", "sha256")
    SITE_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    site: str
    what: str
    sha256: str
    def __init__(self, site: _Optional[str] = ..., what: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class Scores(_message.Message):
    __slots__ = ("model", "values", "sha256")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    model: int
    values: _containers.ScalarMap[str, float]
    sha256: str
    def __init__(self, model: _Optional[int] = ..., values: _Optional[_Mapping[str, float]] = ..., sha256: _Optional[str] = ...) -> None: ...

class Models(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("model", "site", "case", "grid", "class_name", "numbers", "absent")
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    CASE_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    model: str
    site: str
    case: int
    grid: str
    class_name: str
    numbers: _containers.ScalarMap[str, float]
    absent: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., site: _Optional[str] = ..., case: _Optional[int] = ..., grid: _Optional[str] = ..., class_name: _Optional[str] = ..., numbers: _Optional[_Mapping[str, float]] = ..., absent: _Optional[_Iterable[str]] = ...) -> None: ...

class SumName(_message.Message):
    __slots__ = ("discarded", "round", "exchange")
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    discarded: int
    round: int
    exchange: int
    def __init__(self, discarded: _Optional[int] = ..., round: _Optional[int] = ..., exchange: _Optional[int] = ...) -> None: ...

class SumKey(_message.Message):
    __slots__ = ("site", "sealing_key", "masking_key", "certificate", "signature")
    SITE_FIELD_NUMBER: _ClassVar[int]
    SEALING_KEY_FIELD_NUMBER: _ClassVar[int]
    MASKING_KEY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    site: str
    sealing_key: bytes
    masking_key: bytes
    certificate: bytes
    signature: bytes
    def __init__(self, site: _Optional[str] = ..., sealing_key: _Optional[bytes] = ..., masking_key: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SumShare(_message.Message):
    __slots__ = ("site", "data")
    SITE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    site: str
    data: bytes
    def __init__(self, site: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class SumQuestion(_message.Message):
    __slots__ = ("name", "phase")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    name: SumName
    phase: str
    def __init__(self, name: _Optional[_Union[SumName, _Mapping]] = ..., phase: _Optional[str] = ...) -> None: ...

class SumReply(_message.Message):
    __slots__ = ("keys", "shares", "survivors", "dropped", "consents")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    CONSENTS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[SumKey]
    shares: _containers.RepeatedCompositeFieldContainer[SumShare]
    survivors: _containers.RepeatedScalarFieldContainer[str]
    dropped: _containers.RepeatedScalarFieldContainer[str]
    consents: _containers.RepeatedCompositeFieldContainer[SumShare]
    def __init__(self, keys: _Optional[_Iterable[_Union[SumKey, _Mapping]]] = ..., shares: _Optional[_Iterable[_Union[SumShare, _Mapping]]] = ..., survivors: _Optional[_Iterable[str]] = ..., dropped: _Optional[_Iterable[str]] = ..., consents: _Optional[_Iterable[_Union[SumShare, _Mapping]]] = ...) -> None: ...

class SumPart(_message.Message):
    __slots__ = ("name", "phase", "keys", "commitment", "shares", "consent", "self_masks", "mask_keys")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    SELF_MASKS_FIELD_NUMBER: _ClassVar[int]
    MASK_KEYS_FIELD_NUMBER: _ClassVar[int]
    name: SumName
    phase: str
    keys: SumKey
    commitment: bytes
    shares: _containers.RepeatedCompositeFieldContainer[SumShare]
    consent: bytes
    self_masks: _containers.RepeatedCompositeFieldContainer[SumShare]
    mask_keys: _containers.RepeatedCompositeFieldContainer[SumShare]
    def __init__(self, name: _Optional[_Union[SumName, _Mapping]] = ..., phase: _Optional[str] = ..., keys: _Optional[_Union[SumKey, _Mapping]] = ..., commitment: _Optional[bytes] = ..., shares: _Optional[_Iterable[_Union[SumShare, _Mapping]]] = ..., consent: _Optional[bytes] = ..., self_masks: _Optional[_Iterable[_Union[SumShare, _Mapping]]] = ..., mask_keys: _Optional[_Iterable[_Union[SumShare, _Mapping]]] = ...) -> None: ...
