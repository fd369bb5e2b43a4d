"""Variables of one request as arguments of root fields: quickly where plain, else as GraphQL coerces them. Pure.

Plain means what a device sends: ids as strings, a device as an object of known strings, every declared variable given.
For anything else graphql-core is asked, which costs some tens of microseconds and knows all the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from graphql.execution.values import VariableValues

from dgs.model import DeviceContext, DeviceKind, ScreenClass
from dgs.operations.plan import NotFast, Operation, Plan, RootPlan
from dgs.operations.selection import NotPlain

__all__ = ["Device", "Reading", "device_context"]

_KINDS: Final = frozenset(kind.name for kind in DeviceKind)
_SCREENS: Final = frozenset(screen.name for screen in ScreenClass)


class Device(NamedTuple):
    """A DeviceContext not yet looked into."""

    kind: str
    screen: str | None
    locale: str | None


_UNSAID: Final = Device(DeviceKind.TV, None, None)


class Reading:
    """The variables of one request."""

    __slots__ = ("_exact", "_operation", "_variables")

    def __init__(self, operation: Operation, variables: Mapping[str, Any]) -> None:
        self._operation = operation
        self._variables = variables
        self._exact: VariableValues | None = None

    def plan(self) -> Plan | NotFast:
        """The operation's plan for the truth values of its directives. Raises NotPlain for refused variables."""
        operation = self._operation
        truths: tuple[Any, ...] = ()
        if operation.conditions:
            truths = tuple([self._variables.get(name) for name in operation.conditions])
            if not all(type(truth) is bool for truth in truths):
                coerced = self._coerced().coerced
                truths = tuple([coerced.get(name) for name in operation.conditions])
                if not all(type(truth) is bool for truth in truths):
                    raise NotPlain("a directive without a truth value")
        plan = operation.plan(truths)
        if type(plan) is Plan and not plan.covered:
            self._coerced()  # a variable nothing here reads may still be refused
        return plan

    def arguments(self, root: RootPlan) -> tuple[Any, str, Device]:
        """(event or title id, event ids, or duration; profile id; device).

        Raises NotPlain for arguments GraphQL refuses.
        """
        plain = root.plain
        if plain is not None and self._exact is None:
            get = self._variables.get
            target, profile_id, device = [value if name is None else get(name) for value, name in plain]
            if type(profile_id) is str and _is_plain(root.name, target):
                known = _UNSAID if plain[2] == (None, None) else _plain_device(device)
                if known is not None:
                    return target, profile_id, known
        values = root.exact_arguments(self._coerced())
        if values is None:
            raise NotPlain("arguments")
        target, profile_id, device = values
        return target, profile_id, _UNSAID if device is None else _coerced_device(device)

    def _coerced(self) -> VariableValues:
        if self._exact is None:
            self._exact = self._operation.read(self._variables)
            if self._exact is None:
                raise NotPlain("variables")
        return self._exact


def device_context(device: Device) -> DeviceContext:
    """As the schema's own input gives it."""
    return DeviceContext(
        kind=DeviceKind(device.kind), screen=ScreenClass(device.screen or ScreenClass.MEDIUM), locale=device.locale
    )


def _is_plain(root: str, target: object) -> bool:
    if root != "broadcastChannel":
        return type(target) is str
    return type(target) is list and all(type(each) is str for each in target)


def _plain_device(given: Any) -> Device | None:
    if type(given) is not dict:
        return None
    kind, screen, locale = given.get("kind"), given.get("screen"), given.get("locale")
    if (
        len(given) != 1 + ("screen" in given) + ("locale" in given)
        or type(kind) is not str
        or kind not in _KINDS
        or not (screen is None or (type(screen) is str and screen in _SCREENS))
        or not (locale is None or type(locale) is str)
    ):
        return None
    return Device(kind, screen, locale)


def _coerced_device(given: Mapping[str, Any]) -> Device:
    return Device(given["kind"], given.get("screen"), given.get("locale"))
