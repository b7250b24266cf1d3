"""From the core's errors to gRPC status: the one table, looked up along the error's class and its ancestors.

A code that says "final" where the outcome is unknown has callers forget what may exist, so only what surely failed has one:
callers go on asking after UNAVAILABLE, ABORTED and DEADLINE_EXCEEDED.
"""

import re
import string
from collections.abc import Mapping
from urllib.parse import quote

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from provisioner.core import errors

Codes = Mapping[type[Exception], grpc.StatusCode]
"""A front end's additions to the table, for errors of its own."""

DOMAIN = "ceph-provisioner"
"""Who speaks, in google.rpc.ErrorInfo."""

_MESSAGE, _FACT = 2400, 300
"""Bytes, percent-encoded, of a message and of each detail. Longer ones would not fit the 8 KiB that peers take as trailers, and
the caller would hear RESOURCE_EXHAUSTED instead."""
_UNCHANGED = string.ascii_letters + string.digits + string.punctuation.replace("%", "") + " "

_TABLE: Codes = {
    errors.ProvisionerError: grpc.StatusCode.INTERNAL,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.InUse: grpc.StatusCode.FAILED_PRECONDITION,
    errors.HasDependants: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unfit: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OutOfSpace: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.LimitReached: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.Denied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
}


def code_for(error: errors.ProvisionerError, more: Codes) -> grpc.StatusCode:
    """Look the error up along its class's ancestors; `more` wins over the common table."""
    table = {**_TABLE, **more}
    return next(table[kind] for kind in type(error).__mro__ if kind in table)


def status_for(error: errors.ProvisionerError, more: Codes) -> grpc.Status:
    """Give code, message and a google.rpc.ErrorInfo: the kind of error, and what it tells of itself."""
    code = code_for(error, more)
    facts = {name: _cut(_text(value), _FACT) for name, value in vars(error).items()}
    info = error_details_pb2.ErrorInfo(reason=_reason(error), domain=DOMAIN, metadata=facts)
    return status(code, str(error), info)


def status(code: grpc.StatusCode, message: str, *details: Message) -> grpc.Status:
    """Give a status with its details, as gRPC's peers read them."""
    told = status_pb2.Status(code=code.value[0], message=_cut(_text(message), _MESSAGE))
    for detail in details:
        told.details.add().Pack(detail)
    return rpc_status.to_status(told)


def _reason(error: Exception) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).upper()


def _text(value: object) -> str:
    told = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return told.encode(errors="replace").decode()


def _cut(text: str, most: int) -> str:
    text = text[:most]
    while len(quote(text, safe=_UNCHANGED)) > most:
        text = text[: len(text) * 3 // 4]
    return text
