"""How a server that refuses to run as root is run from root: as which account, its files left where they are."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from loadtest.cluster.member import program, unprivileged_user

__all__ = ["Account", "unprivileged_account"]


@dataclass(frozen=True)
class Account:
    """Who a server runs as."""

    name: str
    uid: int
    gid: int

    def own(self, *paths: Path) -> None:
        """Hand files or directories over to this account. Raises OSError."""
        for path in paths:
            os.chown(path, self.uid, self.gid)

    def prefix(self, directory: Path) -> list[str]:
        """What to put before a command line so that it runs as this account, and dies with its parent.

        Below a directory that only root may enter (a temporary one, mostly) the server keeps the one capability that
        lets it pass. Raises CouldNotRun: setpriv is missing.
        """
        command = [program("setpriv", "util-linux"), "--pdeathsig", "KILL", "--clear-groups"]
        command += ["--reuid", str(self.uid), "--regid", str(self.gid)]
        if not self._may_enter(directory):
            command += ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
        return [*command, "--"]

    def _may_enter(self, directory: Path) -> bool:
        for parent in directory.resolve().parents:
            found = parent.stat()
            bit = 0o100 if found.st_uid == self.uid else 0o010 if found.st_gid == self.gid else 0o001
            if not found.st_mode & bit:
                return False
        return True


def unprivileged_account() -> Account | None:
    """The account to run as; None: whoever runs this already is an ordinary user. Raises CouldNotRun: there is none."""
    name = unprivileged_user()
    if name is None:
        return None
    found = pwd.getpwnam(name)
    return Account(found.pw_name, found.pw_uid, found.pw_gid)
