"""What the overview and its live events show of a large installation: the endpoints and speeds that matter."""
