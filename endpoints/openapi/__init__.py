"""Descriptions of API operations for the OpenAPI schema."""
