from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODEC_UNSPECIFIED: _ClassVar[Codec]
    FP32: _ClassVar[Codec]
    FP16: _ClassVar[Codec]
    BF16: _ClassVar[Codec]
    INT8: _ClassVar[Codec]
    INT4: _ClassVar[Codec]
    SIGN: _ClassVar[Codec]
CODEC_UNSPECIFIED: Codec
FP32: Codec
FP16: Codec
BF16: Codec
INT8: Codec
INT4: Codec
SIGN: Codec

class Chunk(_message.Message):
    __slots__ = ("k", "crc32", "payload")
    K_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    k: int
    crc32: int
    payload: bytes
    def __init__(self, k: _Optional[int] = ..., crc32: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Body(_message.Message):
    __slots__ = ("format", "kind", "run", "round", "client", "strategy", "base_hash", "schema_hash", "codec", "residual_ranks", "chunks")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    BASE_HASH_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_HASH_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_RANKS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    format: int
    kind: str
    run: str
    round: int
    client: str
    strategy: str
    base_hash: bytes
    schema_hash: bytes
    codec: Codec
    residual_ranks: _containers.RepeatedScalarFieldContainer[int]
    chunks: _containers.RepeatedCompositeFieldContainer[Chunk]
    def __init__(self, format: _Optional[int] = ..., kind: _Optional[str] = ..., run: _Optional[str] = ..., round: _Optional[int] = ..., client: _Optional[str] = ..., strategy: _Optional[str] = ..., base_hash: _Optional[bytes] = ..., schema_hash: _Optional[bytes] = ..., codec: _Optional[_Union[Codec, str]] = ..., residual_ranks: _Optional[_Iterable[int]] = ..., chunks: _Optional[_Iterable[_Union[Chunk, _Mapping]]] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("body", "sha256", "signature")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    sha256: bytes
    signature: bytes
    def __init__(self, body: _Optional[bytes] = ..., sha256: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Changes(_message.Message):
    __slots__ = ("links", "result_hash")
    LINKS_FIELD_NUMBER: _ClassVar[int]
    RESULT_HASH_FIELD_NUMBER: _ClassVar[int]
    links: _containers.RepeatedScalarFieldContainer[bytes]
    result_hash: bytes
    def __init__(self, links: _Optional[_Iterable[bytes]] = ..., result_hash: _Optional[bytes] = ...) -> None: ...
