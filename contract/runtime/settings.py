"""Base of every service's settings: a frozen model read once from the environment and passed down in parts."""

from __future__ import annotations

from typing import Any

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
        kind = getattr(field.annotation, "__name__", str(field.annotation))
        default: Any = "required" if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, SecretStr | SecretBytes):
            default = "(secret)"
        rows.append((f"{prefix}{name}".upper(), kind, str(default), field.description or ""))
    return rows
