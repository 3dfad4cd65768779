"""Limits and budgets of API keys, of users, and of everyone: tables, rules, JSON API, forms and pages."""
