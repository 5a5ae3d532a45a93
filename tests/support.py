"""What several test files share."""

from pathlib import Path


def calls(workspace: Path) -> list[str]:
    """One line a matrix that the workspace's functions have generated."""
    log = workspace / "calls.log"
    return log.read_text().splitlines() if log.exists() else []
