"""The hub of translations: shapes of chat completions, and what translations from and to them share. No I/O."""
