"""Base of every service's settings: a frozen model read once from the environment and passed down in parts."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretBytes, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["ServiceSettings", "settings_table"]


class ServiceSettings(BaseSettings):
    """Subclass with `model_config = SettingsConfigDict(env_prefix="...")`; nested fields are set with `__`.

    Every field has its unit in its name and a description that says why its default is what it is.
    """

    model_config = SettingsConfigDict(frozen=True, env_nested_delimiter="__", extra="forbid", hide_input_in_errors=True)


def settings_table(model: type[BaseSettings]) -> list[tuple[str, str, str, str]]:
    """Rows (environment variable, type, default, meaning) of a settings model, for docs and `--print-config`."""
    prefix = model.model_config.get("env_prefix", "")
    rows: list[tuple[str, str, str, str]] = []
    for name, field in model.model_fields.items():
        default: Any = "required" if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, SecretStr | SecretBytes):
            default = "(secret)"
        rows.append((f"{prefix}{name}".upper(), _kind(field.annotation), str(default), field.description or ""))
    return rows


def _kind(annotation: Any) -> str:
    """A type as people write it, the same under every Python."""
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(_kind(part) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        return " | ".join(repr(value) for value in get_args(annotation))
    if annotation is NoneType:
        return "None"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
