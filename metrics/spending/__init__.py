"""The amounts that budgets have spent, as control publishes them for the gateways."""
