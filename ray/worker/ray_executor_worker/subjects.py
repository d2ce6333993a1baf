"""The subjects of a deliberation's events in the journal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Subjects:
    """The subjects of one deliberation's events."""

    id: str
    pool: str

    @property
    def all(self) -> str:
        """All of its events."""
        return f"deliberation.*.*.{self.id}"

    @property
    def started(self) -> str:
        """Its attempts."""
        return f"deliberation.started.{self.pool}.{self.id}"

    @property
    def agents(self) -> str:
        """The results of its agents."""
        return f"deliberation.agent.*.{self.id}"

    def agent(self, index: int) -> str:
        """The result of one agent."""
        return f"deliberation.agent.{index}.{self.id}"

    @property
    def ends(self) -> str:
        """Its end. All writers use this very wildcard.

        The server tracks a compare-and-set in flight by this string, so a
        different spelling would let two ends through.
        """
        return f"deliberation.done.*.{self.id}"

    def end(self, how: str) -> str:
        """One of its possible ends."""
        return f"deliberation.done.{how}.{self.id}"


def stopped_subject(replica: str) -> str:
    """Where a replica notes that it has handed its work back.

    No deliberation's id has a tilde, so no deliberation has this event.
    """
    return f"deliberation.stopped.worker.~{replica}"
