"""Torture of budgets: several gateways and control, killed at any moment, while clocks and budgets change."""
