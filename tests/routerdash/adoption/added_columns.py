"""Columns that an adoption adds to tables of llmlb, as SQLite declares them."""

ADDED = {
    "endpoint_models": {
        "lacks": 'text NULL CHECK ((JSON_VALID("lacks") OR "lacks" IS NULL))',
        "max_output_tokens": "integer NULL",
        "features": 'text NULL CHECK ((JSON_VALID("features") OR "features" IS NULL))',
        "first_seen": "text NULL",
    },
    "users": {"view_bodies": "bool NULL"},
    "api_keys": {
        "external": "bool NULL",
        "enabled": "bool NULL",
        "rules": 'text NULL CHECK ((JSON_VALID("rules") OR "rules" IS NULL))',
        "bulk": "bool NULL",
        "replaced_hash": "text NULL",
        "replaced_until": "text NULL",
        "disabled_by_admin": "bool NULL",
    },
}
