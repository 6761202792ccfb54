"""Orders from forecasts: what demand may come until the next order arrives, and what to order for it."""
