from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Notice(_message.Message):
    __slots__ = ("notice_id", "tenant", "session_id", "turns", "archive_ids", "topic", "text", "created_unix_ns")
    NOTICE_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_IDS_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    notice_id: str
    tenant: str
    session_id: str
    turns: _containers.RepeatedScalarFieldContainer[int]
    archive_ids: _containers.RepeatedScalarFieldContainer[str]
    topic: str
    text: str
    created_unix_ns: int
    def __init__(self, notice_id: _Optional[str] = ..., tenant: _Optional[str] = ..., session_id: _Optional[str] = ..., turns: _Optional[_Iterable[int]] = ..., archive_ids: _Optional[_Iterable[str]] = ..., topic: _Optional[str] = ..., text: _Optional[str] = ..., created_unix_ns: _Optional[int] = ...) -> None: ...
