"""The page that Airflow shows for a DAG, rendered from its workflow."""

from __future__ import annotations

from airflow_ibkr_plugin.registry import Registry
from airflow_ibkr_plugin.workflows.model import Workflow, symbol_name


def dag_docs(workflow: Workflow, registry: Registry, origin: str) -> str:
    """Markdown: what the strategy does, on what, with whose judgement, within which limits, and where it is written."""
    rows = {
        "Mode": f"**{workflow.mode}**",
        "Symbols": ", ".join(symbol_name(symbol) for symbol in workflow.symbols) or "none",
        "Schedule": f"`{workflow.schedule}` in {workflow.time_zone}" if workflow.schedule else "by hand only",
        "Connection": f"`{workflow.connection}`",
        "Signals by": "; ".join(_analysts(workflow, registry)) or "nobody",
        "Orders": "yes" if any(task.type == "order" for task in workflow.tasks.values()) else "**none: it observes**",
        "Risk rules": ", ".join(f"`{rule}`" for rule in workflow.risk) or "only those of the installation",
        "Configuration": f"`{workflow.config_hash[:12]}` from `{origin}`",
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    return f"{workflow.description.strip()}\n\n| | |\n|---|---|\n{table}\n"


def _analysts(workflow: Workflow, registry: Registry) -> list[str]:
    found = []
    for task in workflow.tasks.values():
        name = str(task.parameters.get("analyst", ""))
        if analyst := registry.analysts.get(name):
            kind = "an LLM" if analyst.is_llm else "rules, not an LLM"
            found.append(f"`{name}` ({kind}) with prompt `{task.parameters.get('prompt', '')}`")
    return list(dict.fromkeys(found))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
