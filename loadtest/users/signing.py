"""Tokens of profiles, for a DGS that asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from loadtest.installation_keys import profile_signer
from loadtest.users.plan import UsersPlan

__all__ = ["TokenOf", "profile_headers", "token_of"]

TokenOf = Callable[[str], str] | None
"""Profile id -> its token; None: nobody shows one."""


def token_of(plan: UsersPlan) -> TokenOf:
    """Raises CouldNotRun for keys that cannot be read."""
    return profile_signer(Path(plan.profile_keys)) if plan.profile_keys else None


def profile_headers(token_of: TokenOf, profile_id: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token_of(profile_id)}"} if token_of is not None else {}
