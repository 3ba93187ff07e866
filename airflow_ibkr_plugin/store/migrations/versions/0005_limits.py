"""Nothing yet: kept for limits."""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Change nothing."""
