"""What several test files share."""

from pathlib import Path

# A small valid block of a spec, for tests that spoil one key of it.
BLOCK = {
    "function": "[gaussian]",
    "sampling": "[ball-symmetric]",
    "m": "[2]",
    "n": "[40]",
    "r": "[2, 4]",
    "method": "[svd]",
    "seeds": "3",
}

within_flow = []  # what the flow of a test of the dispatcher is to do


def calls(workspace: Path) -> list[str]:
    """One line a matrix that the workspace's functions have generated."""
    log = workspace / "calls.log"
    return log.read_text().splitlines() if log.exists() else []
