"""What budgets have spent, as control publishes it for the gateways."""
