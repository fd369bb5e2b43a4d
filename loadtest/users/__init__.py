"""Locust users in processes of their own: browsing, connected and naive devices, and operators, with honest times."""
