"""Inference servers: tables, registry, health checks, type detection, model sync, names."""
