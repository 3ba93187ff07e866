"""Templates, static files, and the bridge from Airflow's login to the pages.

Airflow 3 mounts plugin pages as a Flask application of their own, whose session cookie is not the one that FAB's
login made: a logged-in user would be anonymous here. The bridge takes the token that Airflow's own UI uses.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager
from flask import Blueprint, Request
from flask.blueprints import BlueprintSetupState
from jwt.exceptions import InvalidTokenError

from airflow_ibkr_plugin.errors import ConfigError

log = logging.getLogger(__name__)

RESOURCE = "IBKR Strategies"
# The nav entry itself asks for `can_read on Plugins`, which FAB gives to Admin only.
GRANTS = [("can_read", RESOURCE), ("menu_access", RESOURCE), ("can_read", "Plugins")]
READERS = ("Viewer", "User", "Op")

blueprint = Blueprint(
    "ibkr",
    __name__,
    url_prefix="/ibkr",
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)


@blueprint.record_once
def _bridge_login(state: BlueprintSetupState) -> None:
    if not isinstance(get_auth_manager(), FabAuthManager):
        raise ConfigError(
            "the IBKR pages need Airflow's FAB auth manager.",
            remedy="Set [core] auth_manager to airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager.",
        )
    # A name of its own: the pages must not overwrite the session of FAB's login.
    state.app.config["SESSION_COOKIE_NAME"] = "ibkr_session"
    state.app.login_manager.request_loader(user_of)  # type: ignore[attr-defined]
    state.app.appbuilder.sm.bulk_sync_roles(  # type: ignore[attr-defined]
        [{"role": role, "perms": GRANTS} for role in READERS]
    )


def user_of(request: Request) -> Any:
    """The user whose token the request carries, as a cookie or as a bearer; None (anonymous) without a valid one."""
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    token = bearer if scheme.lower() == "bearer" else request.cookies.get(COOKIE_NAME_JWT_TOKEN)
    if not token:
        return None
    try:
        return asyncio.run(get_auth_manager().get_user_from_token(token))
    except InvalidTokenError as error:
        log.info("token refused: %s", error)
        return None
