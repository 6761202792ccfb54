"""The tables that ads are planned from: opportunities, budgets and feedback, with their columns and types."""

from __future__ import annotations

from jobs.given import Wanted

OPPORTUNITIES, BUDGETS, FEEDBACK = "opportunities", "budgets", "feedback"
TABLES = {
    OPPORTUNITIES: Wanted(
        {
            "campaign_id": "string",
            "time": "timestamp",
            "probability": "double",
            "value": "double",
            "currency": "string",
        },
        {"price": "double?", "bid": "double?", "won": "boolean?"},
        "ad_opportunities",
    ),
    BUDGETS: Wanted(
        {"campaign_id": "string", "budget": "double", "currency": "string"}, {"target": "double?"}, "ad_budgets"
    ),
    FEEDBACK: Wanted(
        {"campaign_id": "string", "time": "timestamp", "spend": "double", "expected": "double"},
        {"actions": "double?", "opportunities": "double?"},
    ),
}
