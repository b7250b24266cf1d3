"""Around every call: admission, errors turned into status, one line of log, one observation for the metrics.

This is the boundary where nothing unforeseen may pass: gRPC would answer UNKNOWN for it, without a word in the log.
"""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
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
    """Wraps every unary method."""

    def __init__(self, policy: Policy, admission: Admission) -> None:
        self._policy, self._admission = policy, admission

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Put this boundary around the method that the call is for, if there is one."""
        found, method = continuation(handler_call_details), handler_call_details.method
        if found is None or found.unary_unary is None:
            return found
        inner: _Method = found.unary_unary

        def answer(request: Message, context: Context) -> Any:
            return self._answer(method, inner, request, context)

        return grpc.unary_unary_rpc_method_handler(answer, found.request_deserializer, found.response_serializer)

    def _answer(self, method: str, inner: _Method, request: Message, context: Context) -> Any:
        started = time.monotonic()
        response, failure = self._outcome(method, inner, request, context)
        self._tell(method, request, time.monotonic() - started, failure)
        if failure is not None:
            context.abort_with_status(failure)
        return response

    def _outcome(
        self, method: str, inner: _Method, request: Message, context: Context
    ) -> tuple[Message | None, grpc.Status | None]:
        try:
            with nullcontext() if method in self._policy.light else self._admission.entered(context):
                return inner(request, context), None
        except ProvisionerError as error:
            return None, status_for(error, self._policy.codes)
        except NotImplementedError:  # how generated services answer for a method that nobody wrote
            return None, status(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not served here")
        except Exception as error:
            log.exception("%s: a defect; asked: %s", method, self._policy.redactor.shown(request))
            told = f"a defect: {type(error).__name__}; the server's log has the traceback"
            return None, status(grpc.StatusCode.INTERNAL, told)

    def _tell(self, method: str, request: Message, seconds: float, failure: grpc.Status | None) -> None:
        code = grpc.StatusCode.OK if failure is None else failure.code
        self._policy.on_call(method, code.name, seconds)
        level = logging.DEBUG if failure is None and method in self._policy.light else logging.INFO
        if log.isEnabledFor(level):
            why = "" if failure is None else f": {failure.details}"
            shown = self._policy.redactor.shown(request)
            log.log(level, "%s %s in %.0f ms%s; asked: %s", method, code.name, seconds * 1000, why, shown)
