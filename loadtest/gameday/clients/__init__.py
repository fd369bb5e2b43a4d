"""Clients in processes of their own: naive ones, ones with and without retry budgets, and an audience with maps."""
