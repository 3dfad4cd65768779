"""Results of health checks, and their collection into batches."""
