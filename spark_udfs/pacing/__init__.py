"""Bids and budgets: what to bid for a campaign's opportunities so that its budget lasts the day and pays most."""
