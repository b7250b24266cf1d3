"""Around every call: admission, errors turned into status, one line of log, one observation for the metrics.

This is the boundary where nothing unforeseen may pass: gRPC would answer UNKNOWN for it, without a word in the log. A call that
is answered with a stream lasts as long as its reader likes, so streams have permits of their own and take none from the others.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from provisioner.core.errors import ProvisionerError
from provisioner.rpc.admission import Admission
from provisioner.rpc.redact import Redactor
from provisioner.rpc.status import Codes, status, status_for

log = logging.getLogger(__name__)

OnCall = Callable[[str, str, float], None]
"""Is told of a call's method (`/csi.v1.Controller/CreateVolume`), status code (`OK`) and seconds."""

Context: TypeAlias = grpc.ServicerContext
_Method: TypeAlias = Callable[[Any, Context], Any]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a front end says of its calls: `light` ones need no permit, since they never wait for a cluster."""

    light: frozenset[str]
    codes: Codes
    redactor: Redactor
    on_call: OnCall


class Boundary(grpc.ServerInterceptor):
    """Wraps every method that takes one message and answers with one or with a stream."""

    def __init__(self, policy: Policy, admission: Admission, streams: Admission) -> None:
        self._policy, self._admission, self._streams = policy, admission, streams

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Put this boundary around the method that the call is for, if there is one."""
        found, method = continuation(handler_call_details), handler_call_details.method
        if found is None:
            return found
        readers = (found.request_deserializer, found.response_serializer)
        if found.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(partial(self._answer, method, found.unary_unary), *readers)
        if found.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(partial(self._stream, method, found.unary_stream), *readers)
        return found

    def _answer(self, method: str, inner: _Method, request: Message, context: Context) -> Any:
        started = time.monotonic()
        response, failure = self._outcome(method, inner, request, context)
        self._tell(method, request, time.monotonic() - started, failure)
        if failure is not None:
            context.abort_with_status(failure)
        return response

    def _stream(self, method: str, inner: _Method, request: Message, context: Context) -> Iterator[Any]:
        """Pass the messages on; what goes wrong between two of them ends the stream with its status."""
        started, failures = time.monotonic(), list[grpc.Status]()
        try:
            with self._noted(method, request, failures), self._streams.entered(context):
                yield from inner(request, context)
        except GeneratorExit:
            failures.append(status(grpc.StatusCode.CANCELLED, "the reader went away"))
            raise
        finally:
            self._tell(method, request, time.monotonic() - started, failures[0] if failures else None)
        if failures:
            context.abort_with_status(failures[0])

    def _outcome(
        self, method: str, inner: _Method, request: Message, context: Context
    ) -> tuple[Message | None, grpc.Status | None]:
        response, failures = None, list[grpc.Status]()
        admitted = nullcontext() if method in self._policy.light else self._admission.entered(context)
        with self._noted(method, request, failures), admitted:
            response = inner(request, context)
        return response, failures[0] if failures else None

    @contextmanager
    def _noted(self, method: str, request: Message, failures: list[grpc.Status]) -> Iterator[None]:
        """Let nothing out of the block: what it raises becomes a status among `failures`."""
        try:
            yield
        except ProvisionerError as error:
            failures.append(status_for(error, self._policy.codes))
        except NotImplementedError:  # how generated services answer for a method that nobody wrote
            failures.append(status(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not served here"))
        except Exception as error:
            log.exception("%s: a defect; asked: %s", method, self._policy.redactor.shown(request))
            told = f"a defect: {type(error).__name__}; the server's log has the traceback"
            failures.append(status(grpc.StatusCode.INTERNAL, told))

    def _tell(self, method: str, request: Message, seconds: float, failure: grpc.Status | None) -> None:
        code = grpc.StatusCode.OK if failure is None else failure.code
        self._policy.on_call(method, code.name, seconds)
        level = logging.DEBUG if failure is None and method in self._policy.light else logging.INFO
        if log.isEnabledFor(level):
            why = "" if failure is None else f": {failure.details}"
            shown = self._policy.redactor.shown(request)
            log.log(level, "%s %s in %.0f ms%s; asked: %s", method, code.name, seconds * 1000, why, shown)
