"""What `plan_ads` reads: opportunities, budgets and feedback where they lie, and what is wrong with them."""
