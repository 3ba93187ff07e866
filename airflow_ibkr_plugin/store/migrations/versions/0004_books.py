"""Nothing yet: kept for books."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Change nothing."""
